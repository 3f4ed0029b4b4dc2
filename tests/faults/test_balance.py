"""Workers of different speeds: each serves in proportion to what it can."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.requests import OutputOptions, Stopping, generate_tokens
from tests.faults.fleet import fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.fleet import Fleet

SPEEDS = {40: 1, 41: 1, 42: 2, 43: 4}  # by the one token that a worker says
FASTEST_STEP_SECONDS = 0.05  # beside which what a step takes in truth is little
CALLERS = 40  # so many calls at any time
SECONDS = 50.0
BEGIN_SECONDS = 10.0  # until all callers have met all workers; not counted


async def served(running: Fleet) -> Counter[int]:
    """Tokens by the worker that said them, of callers who ask again and again."""
    tokens: Counter[int] = Counter()
    chance = random.Random(7)
    counted_from = time.monotonic() + BEGIN_SECONDS

    async def ask_for_ever(caller: int) -> None:
        while True:
            request = generate_tokens(
                [chance.randrange(300) for _ in range(20)],
                stopping=Stopping(max_new_tokens=chance.randint(10, 40)),
                output=OutputOptions(token_ids=True),
            )
            async for response in running.stub.StreamGenerate(request):
                if time.monotonic() > counted_from:
                    tokens.update(response.delta.token_ids)

    with suppress(TimeoutError):
        async with asyncio.timeout(BEGIN_SECONDS + SECONDS):
            await asyncio.gather(*(ask_for_ever(caller) for caller in range(CALLERS)))
    return tokens


@pytest.mark.slow
async def test_workers_of_speeds_1_1_2_4_serve_tokens_in_proportion(folder: Path) -> None:
    fastest = max(SPEEDS.values())
    scripts = [
        {"ids": [said], "seconds_per_step": FASTEST_STEP_SECONDS * fastest / speed} for said, speed in SPEEDS.items()
    ]
    async with fleet(folder, *scripts, workers=["--max-num-seqs", "16"]) as running:
        tokens = await served(running)
    total = sum(tokens.values())
    shares = {said: tokens[said] / total / (speed / sum(SPEEDS.values())) for said, speed in SPEEDS.items()}
    print(f"\n{total} tokens; of what is proportional: {', '.join(f'{share:.3f}' for share in shares.values())}")
    assert all(0.9 <= share <= 1.1 for share in shares.values())
