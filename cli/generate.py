"""`tokenmill generate`: continue a text, from the command line or from standard input, streaming."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cli.asking import add_gateway, add_parameters, client, parameters
from cli.failure import WRONG_USAGE, CommandError


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("generate", help="continue a text", description="Continue a text.")
    parser.add_argument("prompt", nargs="?", help="the text; not given: standard input")
    add_gateway(parser)
    add_parameters(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Stream the continuation to standard output."""
    prompt = options.prompt if options.prompt is not None else sys.stdin.read()
    if not prompt:
        raise CommandError("there is nothing to continue", "give a text, or pipe one in", WRONG_USAGE)
    with client(options) as asked, asked.stream_generate(prompt, **parameters(options)) as stream:
        for text in stream.text():
            print(text, end="", flush=True)
    print()
    return 0
