"""`python -m cli.demo`: one real answer, streamed through all three services, and nothing left behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc

from cli import interrupts
from cli.chat_stream import Answer, StreamEndedEarlyError, greedy_chat, stream_chat
from cli.demo_model import DemoModelError, default_folder, ensure_demo_model
from cli.local_stack import OUR_MODULES, LocalStack, Modules, StackError, StackOptions
from cli.progress import StartProgress

QUESTION = "Explain in simple words what a language model is."


def main(arguments: list[str] | None = None, modules: Modules = OUR_MODULES) -> int:
    """Make the model if it is missing, start the services, ask, print, stop; return the exit code."""
    options = parse(arguments)
    try:
        ensure_demo_model(options.model)
        return interrupts.run(demo(options, modules))
    except (DemoModelError, StackError, StreamEndedEarlyError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except grpc.aio.AioRpcError as error:
        print(f"demo: the gateway answered {error.code().name}: {error.details()}", file=sys.stderr)
    return 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cli.demo", description="Stream one real answer, then stop.")
    parser.add_argument("--prompt", default=QUESTION, help="what to ask (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=120, help="bound of the answer (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=default_folder(), help="model folder (default: %(default)s)")
    parser.add_argument("--quantization", default="auto", help="as of the model worker (default: %(default)s)")
    return parser.parse_args(arguments)


async def demo(options: argparse.Namespace, modules: Modules) -> int:
    """Start the services, stream one answer to stdout, stop them."""
    stack_options = StackOptions(
        model=options.model,
        served_name=options.model.resolve().name,
        worker_arguments=("--quantization", options.quantization),
        modules=modules,
    )
    async with LocalStack(stack_options, StartProgress(sys.stderr)) as stack:
        print(f"\n> {options.prompt}\n", flush=True)
        request = greedy_chat(options.prompt, options.max_new_tokens)
        answer = await stack.unless_one_ends(stream_chat(stack.addresses["gateway"], request, write))
        print(f"\n\n{described(answer)}", flush=True)
    return 0


def write(text: str) -> None:
    """Print a piece of text at once."""
    print(text, end="", flush=True)


def described(answer: Answer) -> str:
    """What the answer cost, in one line."""
    return (
        f"time to first token {answer.seconds_to_first_text * 1000:.0f} ms · "
        f"{answer.tokens_per_second:.1f} tokens/s · "
        f"{answer.prompt_tokens} prompt + {answer.tokens} generated tokens · {answer.finish_reason}"
    )


if __name__ == "__main__":
    sys.exit(main())
