"""`tokenmill bench`: how fast a gateway answers, as its callers have it. Flags are named as in `vllm bench serve`."""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cli import interrupts
from cli.asking import add_gateway, connection
from cli.failure import FAILED, CommandError
from tokenmill_client import AsyncClient, TokenmillError

_WORDS = """
river stone house light water music garden winter summer morning evening paper table window road city mountain forest
ocean island bridge school teacher doctor farmer market village country family friend animal bird horse flower tree
"""
SHARES = (0.5, 0.9, 0.99)


@dataclass(slots=True)
class Measured:
    """What the callers saw; times are seconds."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    first: list[float] = field(default_factory=list)  # from sending to the first text
    between: list[float] = field(default_factory=list)  # pauses between texts
    whole: list[float] = field(default_factory=list)  # from sending to the end
    failures: list[TokenmillError] = field(default_factory=list)


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast a gateway answers",
        description="Send requests of random words and tell what their callers saw.",
    )
    add_gateway(parser)
    parser.add_argument("--model", default="", help="its name; not needed where there is one")
    parser.add_argument("--num-prompts", type=_positive(int), default=64, metavar="N", help="requests (%(default)s)")
    parser.add_argument(
        "--max-concurrency", type=_positive(int), default=16, metavar="N", help="in flight at most (%(default)s)"
    )
    parser.add_argument(
        "--request-rate", type=_positive(float), metavar="R", help="arrivals a second, by chance; not given: at once"
    )
    parser.add_argument(
        "--random-input-len", type=_positive(int), default=128, metavar="N", help="words of a prompt (%(default)s)"
    )
    parser.add_argument(
        "--random-output-len", type=_positive(int), default=64, metavar="N", help="tokens of an answer (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of words and arrivals (%(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table; 0 if nothing failed."""
    return interrupts.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    measured = Measured()
    async with AsyncClient(options.gateway, timeout_seconds=options.timeout, **connection(options)) as client:
        await client.models()  # whether anybody answers is said before anything is measured
        began = time.monotonic()
        await _send_all(client, options, measured)
        seconds = time.monotonic() - began
    if not measured.whole:
        raise measured.failures[0]
    print("\n".join(report(measured, seconds)))
    if measured.failures:
        hint = "of the first one: " + measured.failures[0].message
        raise CommandError(f"{len(measured.failures)} of {options.num_prompts} requests failed", hint, FAILED)
    return 0


async def _send_all(client: AsyncClient, options: argparse.Namespace, measured: Measured) -> None:
    chance = random.Random(options.seed)  # noqa: S311 - no secret
    words = _WORDS.split()
    places = asyncio.Semaphore(options.max_concurrency)
    async with asyncio.TaskGroup() as group:
        for _ in range(options.num_prompts):
            if options.request_rate:
                await asyncio.sleep(chance.expovariate(options.request_rate))
            prompt = " ".join(chance.choices(words, k=options.random_input_len))
            await places.acquire()
            sending = group.create_task(_send(client, options, prompt, measured))
            sending.add_done_callback(lambda _: places.release())


async def _send(client: AsyncClient, options: argparse.Namespace, prompt: str, measured: Measured) -> None:
    began = last = time.monotonic()
    is_first = True
    asked = client.stream_generate(
        prompt, model=options.model, max_new_tokens=options.random_output_len, ignore_eos=True, temperature=0
    )
    try:
        async with asked as stream:
            async for delta in stream:
                if delta.error is not None:
                    raise delta.error
                if delta.text:
                    now = time.monotonic()
                    (measured.first if is_first else measured.between).append(now - last)
                    is_first, last = False, now
                if delta.usage is not None:
                    measured.prompt_tokens += delta.usage.prompt_tokens
                    measured.completion_tokens += delta.usage.completion_tokens
    except TokenmillError as error:
        measured.failures.append(error)
    else:
        measured.whole.append(time.monotonic() - began)


def report(measured: Measured, seconds: float) -> list[str]:
    """Lines for people."""
    prompt, completion = measured.prompt_tokens, measured.completion_tokens
    lines = [
        f"{len(measured.whole)} answers in {seconds:.1f} s: {len(measured.whole) / seconds:.2f} a second",
        f"prompt tokens: {prompt:,}, {prompt / seconds:,.0f} a second",
        f"generated tokens: {completion:,}, {completion / seconds:,.0f} a second",
        "",
        " " * 18 + "".join(f"{f'p{100 * share:g}':>10}" for share in SHARES),
    ]
    for name, times in (
        ("first text, ms", measured.first),
        ("between texts, ms", measured.between),
        ("whole answer, ms", measured.whole),
    ):
        if times:
            cells = (f"{1000 * percentile(times, share):>10,.1f}" for share in SHARES)
            lines.append(f"{name:<18}" + "".join(cells))
    return lines


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by `share` of them (nearest rank). Precondition: there are values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _positive(kind: type[int | float]) -> Any:
    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return value

    return read
