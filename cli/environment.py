"""What of the environment the services of a local stack are given.

A shell in which somebody works on a deployment has variables for services that speak TLS, ask for keys, or are one of a
machine. The three here are one person's own: nobody tells them apart by certificate, and whoever starts them calls them
without one.
"""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "TOKENMILL_"
# Of variables that are left out, what their names are or begin with. All others go on to the services.
ACCESS = ("SSL_", "BACKEND_SSL_", "API_KEY_FILE", "JWT_")
# One number for three services; where the others are, which the stack knows better; and a file with any of it.
PLACES = ("METRICS_PORT", "ADMIN_PORT", "HTTP_PORT", "WORKER", "TOKENIZER", "CONFIG")


def left_out(environment: Mapping[str, str]) -> list[str]:
    """The names of variables that would change how the services reach each other and are called, sorted."""
    return sorted(
        name for name, value in environment.items() if value and _is_left_out(name.removeprefix(PREFIX), name)
    )


def for_services(environment: Mapping[str, str]) -> dict[str, str]:
    """All others."""
    kept = environment.keys() - set(left_out(environment))
    return {name: environment[name] for name in kept}


def _is_left_out(option: str, name: str) -> bool:
    return name.startswith(PREFIX) and (option.startswith(ACCESS) or option in PLACES)
