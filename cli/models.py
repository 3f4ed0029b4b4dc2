"""`tokenmill models`: what is served."""

from __future__ import annotations

import argparse
from typing import Any

from cli.asking import add_gateway, client

_HEADS = ("name", "context", "quantization", "workers", "chat", "also called")


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("models", help="list what is served", description="List the models of a gateway.")
    add_gateway(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table."""
    with client(options) as asked:
        models = asked.models()
    rows = [
        (
            f"{model.name} (on {model.base_model})" if model.base_model else model.name,
            str(model.context_length),
            model.quantization,
            str(model.ready_workers),
            "yes" if model.chat else "no",
            ", ".join(model.aliases),
        )
        for model in models
    ]
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    for row in (_HEADS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
