"""Run the tokenizer service: `python -m tokenizer_service --model [NAME=]PATH`."""

from __future__ import annotations

import sys

from rpc.process import run
from rpc.settings import from_command_line
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings

PROGRAM = "tokenizer_service"


def main() -> None:
    """Serve until told to stop."""
    # Where torch happens to be installed transformers would import it: seconds, and 300 MB, for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    settings = from_command_line(TokenizerSettings, PROGRAM, sys.argv[1:])
    run(lambda: TokenizerService(settings), settings, PROGRAM)


if __name__ == "__main__":
    main()
