"""Run the gateway: `python -m gateway --tokenizer host:port --worker host:port`."""

from __future__ import annotations

import sys

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from rpc.process import run
from rpc.settings import from_command_line

PROGRAM = "gateway"


def main() -> None:
    """Serve until told to stop."""
    settings = from_command_line(GatewaySettings, PROGRAM, sys.argv[1:])
    run(lambda: GatewayService(settings), settings, PROGRAM)


if __name__ == "__main__":
    main()
