"""Settings of a service: one frozen dataclass, each option declared once.

Where a value comes from, first match wins: flag, environment variable `TOKENMILL_…`, TOML file (`--config`), default.
Unknown flags and unknown keys of the file are refused. A repeatable option is a flag given several times, a variable
with commas, or a list in the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tomllib
import typing
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rpc.log import LogFormat
from rpc.option_values import ValueRefused, check_range, is_repeatable, parse_value

PREFIX = "TOKENMILL_"
SettingsType = TypeVar("SettingsType", bound="ServiceSettings")


class SettingsError(Exception):
    """An option that is unknown, missing or out of range; the message is one line for people."""


def option(
    help_text: str,
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    size: bool = False,
) -> Any:
    """Declare one option. `size` accepts "512MiB" as well as bytes; without a default the option must be given."""
    metadata = {"help": help_text, "at_least": at_least, "at_most": at_most, "size": size}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every service can be told."""

    host: str = option("address to listen on", "127.0.0.1")
    port: int = option("port to listen on; 0 picks a free one", at_least=0, at_most=65535)
    config: Path | None = option("TOML file with options; flags and environment variables win over it", None)
    log_format: LogFormat = option("how log lines look", "console")
    log_level: typing.Literal["debug", "info", "warning", "error"] = option("least level that is logged", "info")
    drain_seconds: float = option(
        "after SIGTERM: how long to go on accepting calls while load balancers learn that we are not ready",
        1.0,
        at_least=0,
        at_most=600,
    )
    grace_seconds: float = option(
        "after that: how long running calls may take to finish before they are cancelled",
        30.0,
        at_least=0,
        at_most=86400,
    )
    metrics_port: int | None = option(
        "port for Prometheus and for probes over HTTP (/metrics, /health, /ready); 0 picks a free one",
        None,
        at_least=0,
        at_most=65535,
    )
    admin_port: int | None = option(
        "port for whoever operates this process, on 127.0.0.1 whatever --host says (docs/admin.md); 0 picks a free one",
        None,
        at_least=0,
        at_most=65535,
    )
    max_connection_age_seconds: float | None = option(
        "after so long, give or take a tenth, callers open another connection, perhaps to another instance; calls "
        "on the old one go on; none: never",
        None,
        at_least=0.1,
        at_most=86400,
    )
    otlp_traces_endpoint: str | None = option(
        "http:// or https:// address of a collector, for OpenTelemetry traces by gRPC (needs the extra otel)",
        None,
    )
    reflection: bool = option("answer gRPC server reflection", True)
    ssl_certfile: Path | None = option(
        "certificate chain in PEM: TLS on the ports for callers; read again when changed, as are the next two",
        None,
    )
    ssl_keyfile: Path | None = option("its key in PEM, unencrypted", None)
    ssl_ca_certs: Path | None = option(
        "certificates in PEM of authorities: clients have to show a certificate of theirs (mTLS)", None
    )
    ssl_client_names: tuple[str, ...] = option(
        "DNS name or URI in the certificates of clients that are let in; none: all that the authorities vouch for; "
        "repeatable",
        (),
    )


def load_settings(
    settings_type: type[SettingsType], program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> SettingsType:
    """Collect the settings of one service from its four sources. Errors: SettingsError."""
    options = {field.name: field for field in dataclasses.fields(settings_type)}
    types_of = typing.get_type_hints(settings_type)
    flags = _from_flags(settings_type, program, arguments)
    variables = {name: PREFIX + name.upper() for name in options}
    # An empty variable counts as not set: deployment files often cannot leave one out.
    from_environment = {name: environment[key] for name, key in variables.items() if environment.get(key)}
    config = flags.get("config", from_environment.get("config"))
    from_file = _from_file(Path(config), options.keys() - {"config"}) if config else {}
    values = {
        name: _checked(name, raw, types_of[name], options[name])
        for name, raw in {**from_file, **from_environment, **flags}.items()
    }
    for name, option_field in options.items():
        if option_field.default is dataclasses.MISSING and values.get(name, ()) == ():
            raise SettingsError(f"{_flag(name)} is required")
    return settings_type(**values)


def from_command_line(settings_type: type[SettingsType], program: str, arguments: Sequence[str]) -> SettingsType:
    """`load_settings` for a `__main__`: an error is one line on stderr and exit code 2."""
    try:
        return load_settings(settings_type, program, arguments, os.environ)
    except SettingsError as error:
        exit_with(program, str(error))


def exit_with(program: str, message: str) -> NoReturn:
    """End the process with one clear line and exit code 2."""
    argparse.ArgumentParser(prog=program, usage=argparse.SUPPRESS).exit(2, f"{program}: {message}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _from_flags(settings_type: type[ServiceSettings], program: str, arguments: Sequence[str]) -> dict[str, Any]:
    parser = _Parser(prog=program, allow_abbrev=False, description=settings_type.__doc__)
    types_of = typing.get_type_hints(settings_type)
    for field in dataclasses.fields(settings_type):
        wanted = types_of[field.name]
        help_text = f"{field.metadata['help']} ({_shown(field.default)})".replace("%", "%%")
        if wanted is bool:
            parser.add_argument(
                _flag(field.name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text
            )
            continue
        is_choice = typing.get_origin(wanted) is typing.Literal
        parser.add_argument(
            _flag(field.name),
            action="append" if is_repeatable(wanted) else "store",
            default=argparse.SUPPRESS,
            metavar="|".join(typing.get_args(wanted)) if is_choice else "VALUE",
            help=help_text,
        )
    return vars(parser.parse_args(list(arguments)))


def _shown(default: object) -> str:
    if default is dataclasses.MISSING:
        return "required"
    return "default: none" if default is None or default == () else f"default: {default}"


def _from_file(path: Path, known: AbstractSet[str]) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: not TOML: {error}") from error
    for key in content:
        if key.replace("-", "_") not in known:
            raise SettingsError(f"--config {path}: unknown option {key!r}")
    return {key.replace("-", "_"): value for key, value in content.items()}


def _checked(name: str, raw: Any, wanted: Any, declared: dataclasses.Field[Any]) -> Any:
    try:
        value = parse_value(raw, wanted, size=declared.metadata["size"])
        check_range(value, declared.metadata["at_least"], declared.metadata["at_most"])
    except ValueRefused as error:
        raise SettingsError(f"{_flag(name)}: {error}") from error
    return value
