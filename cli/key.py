"""`tokenmill key`: a new key for callers of a gateway, and what its file of keys holds of it.

What the gateway would refuse is refused here, where somebody sees it. The rules are its own (`gateway/access/keys.py`),
and a test holds both to the same: commands import no service.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import secrets
import sys
from datetime import UTC, datetime
from typing import Any

from cli.failure import WRONG_USAGE, CommandError

PREFIX = "tmk-"  # so that a key is recognized where it should not be
RANDOM_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "key",
        help="make a key for callers",
        description="Make a key. It is printed once, on stderr; stdout is the entry for the file of --api-key-file.",
    )
    parser.add_argument("name", help="whose it is")
    parser.add_argument("--tenant", help="(default: the name)")
    parser.add_argument("--model", action="append", metavar="NAME", help="what it is for; not given: all; repeatable")
    parser.add_argument("--max-inflight", type=int, metavar="N", help="requests at once")
    parser.add_argument("--requests-per-minute", type=int, metavar="N")
    parser.add_argument("--expires", metavar="TIME", help="such as 2030-01-31T00:00:00Z")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print both. Errors: CommandError."""
    _check(options)
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    fields = {
        "name": options.name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "tenant": options.tenant,
        "models": options.model,
        "max_inflight": options.max_inflight,
        "requests_per_minute": options.requests_per_minute,
        "expires": options.expires,
    }
    # Of these values JSON's notation is TOML's, too.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items() if value is not None]
    print("\n".join(["[[keys]]", *lines]))
    sys.stderr.write(f"key: {key}\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Errors: CommandError naming the argument."""
    for argument, name in (("NAME", options.name), ("--tenant", options.tenant)):
        # argparse makes a list of --tenant=--
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise _refused(argument, "must be 1 to 128 letters, digits and ._:/+=@-")
    for model in options.model or ():
        if not model or not model.isprintable():
            raise _refused("--model", "must be the name of a model, and not empty")
    for argument, count in (
        ("--max-inflight", options.max_inflight),
        ("--requests-per-minute", options.requests_per_minute),
    ):
        if count is not None and count < 1:
            raise _refused(argument, "must be at least 1")
    if options.expires is not None and _time(options.expires) <= datetime.now(UTC):
        raise _refused("--expires", "is over")


def _time(given: str) -> datetime:
    """A time without a zone is UTC, as for the gateway. Errors: CommandError."""
    try:
        time = datetime.fromisoformat(given)
    except (ValueError, TypeError):  # a list, as above
        raise _refused("--expires", "must be a date and time, such as 2030-01-31T00:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _refused(argument: str, why: str) -> CommandError:
    return CommandError(f"{argument}: {why}", code=WRONG_USAGE)
