"""The `tokenmill` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cli import admin, bench, chat, doctor, generate, health, key, models, up
from cli.failure import CommandError, tell
from tokenmill_client import TokenmillError

COMMANDS = (up, chat, generate, models, health, bench, doctor, key, admin)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="tokenmill", description="Language models, served over gRPC and HTTP.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except CommandError as error:
        return tell(error)
    except TokenmillError as error:
        return tell(CommandError.of_call(error, getattr(options, "gateway", "")))
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
