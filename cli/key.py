"""`tokenmill key`: a new key for callers of a gateway, and what its file of keys holds of it."""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
from typing import Any

from cli.failure import WRONG_USAGE, CommandError

PREFIX = "tmk-"  # so that a key is recognized where it should not be
RANDOM_BYTES = 32


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
    for name in ("max_inflight", "requests_per_minute"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise CommandError(f"--{name.replace('_', '-')} must be at least 1", code=WRONG_USAGE)
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
