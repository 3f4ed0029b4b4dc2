"""`tokenmill up`: all three services on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from cli import interrupts
from cli.demo_model import DemoModelError, default_folder, ensure_demo_model
from cli.local_stack import OUR_MODULES, LocalStack, Modules, Ports, StackError, StackOptions
from cli.progress import StartProgress

STOPPED_BY_PERSON = frozenset({128 + number for number in interrupts.INTERRUPTS})
HOW_TO_CALL = """
gateway {gateway} (tokenizer {tokenizer}, worker {worker})

  a page   http://{http}/
  talk     tokenmill chat --gateway {gateway}
  OpenAI   http://{http}/v1
  gRPC     buf curl --protocol grpc --http2-prior-knowledge \\
             -d '{{"messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}' \\
             http://{gateway}/tokenmill.v1.InferenceService/StreamChat

Ctrl-C stops all three."""
ALL_FREE = Ports(0, 0, 0, 0)


def main(arguments: list[str] | None = None, modules: Modules = OUR_MODULES) -> int:
    """Keep the services up until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cli.up", description="Run all three services on this machine.")
    add_options(parser)
    return run(parser.parse_args(arguments), modules)


def add_to(commands: Any) -> None:
    """Add the command."""
    description = "Run all three services on this machine."
    parser = commands.add_parser("up", help="run all three services here", description=description)
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--model", type=Path, default=default_folder(), help="model folder (default: %(default)s)")
    parser.add_argument("--served-model-name", help="the name requests carry (default: the folder's)")
    parser.add_argument("--quantization", default="auto", help="as of the model worker (default: %(default)s)")
    parser.add_argument("--free-ports", action="store_true", help="pick free ports instead of 50051 to 50053 and 8080")
    parser.add_argument("--verbose", action="store_true", help="show every log line of the services")


def run(options: argparse.Namespace, modules: Modules = OUR_MODULES) -> int:
    """Keep the services up until told to stop; return the exit code."""
    try:
        if options.model == default_folder():
            ensure_demo_model(options.model)
        code = interrupts.run(up(options, modules))
    except (DemoModelError, StackError) as error:
        print(f"up: {error}", file=sys.stderr)
        return 1
    return 0 if code in STOPPED_BY_PERSON else code


async def up(options: argparse.Namespace, modules: Modules) -> int:
    """Start, tell how to call, and wait. Errors: StackError once a service has ended."""
    stack_options = StackOptions(
        model=options.model,
        served_name=options.served_model_name or options.model.resolve().name,
        ports=ALL_FREE if options.free_ports else Ports(),
        worker_arguments=("--quantization", options.quantization),
        modules=modules,
    )
    async with LocalStack(stack_options, StartProgress(sys.stderr), verbose=options.verbose) as stack:
        print(HOW_TO_CALL.format(**stack.addresses, http=stack.http_address), flush=True)
        await stack.unless_one_ends(for_ever())
    return 0


async def for_ever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
