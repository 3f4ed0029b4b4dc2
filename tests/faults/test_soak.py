"""Twenty thousand calls of all kinds: afterwards the services hold what they held after the first few thousand."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import grpc
import psutil
import pytest

from tests.end_to_end.requests import OutputOptions, Stopping, generate, generate_tokens
from tests.faults.fleet import fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.fleet import Fleet, Part

CALLS = 20_000
WARM = 5_000  # calls until caches are full and memory has been asked for
CALLERS = 32
POISON = 99  # a prompt with this token fails
MIB = 2**20
MOST_MIB = 8.0  # of growth: 0.5 KB a call would be 7.3 MiB
MOST_MORE = 2  # file descriptors, threads, tasks


class Held(NamedTuple):
    """What a process holds."""

    mib: float
    descriptors: int
    threads: int
    tasks: int  # of the gateway; elsewhere 0


async def held(running: Fleet) -> dict[str, Held]:
    parts = {"gateway": running.gateway, "worker": running.workers[0], "tokenizer": running.tokenizers[0]}
    await running.quiet()
    tasks = (await running.held())["tasks"]
    return {name: _held(part, tasks if name == "gateway" else 0) for name, part in parts.items()}


def _held(part: Part, tasks: int) -> Held:
    process = psutil.Process(part.process.pid)
    return Held(process.memory_info().rss / MIB, process.num_fds(), process.num_threads(), tasks)


async def call(running: Fleet, chance: random.Random) -> str:
    """One call: most are heard to their ends, some are left, some fail, some are refused."""
    kind = chance.random()
    wishes = {"stopping": Stopping(max_new_tokens=chance.randint(1, 20)), "output": OutputOptions(token_ids=True)}
    if kind < 0.1:
        request = generate(f"{chance.random()} and a text", **wishes)
    else:
        ids = [chance.randrange(98) for _ in range(chance.randint(2, 40))]
        request = generate_tokens([*ids, POISON] if kind < 0.2 else ids, **wishes)
    try:
        stream = running.stub.StreamGenerate(request, timeout=0.001 if kind > 0.97 else 60)
        async for _ in stream:
            if kind > 0.9:
                stream.cancel()
    except asyncio.CancelledError:
        return "left"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "completed"


async def calls(running: Fleet, count: int, chance: random.Random) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            outcomes[await call(running, chance)] += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return outcomes


@pytest.mark.slow
async def test_20_000_calls_leave_nothing_behind(folder: Path) -> None:
    script = {"ids": [40, 41, 42], "faults": [{"prompt_has": POISON, "after_tokens": 2, "what": "fail_row"}]}
    async with fleet(folder, script) as running:
        chance = random.Random(7)
        outcomes = await calls(running, WARM, chance)
        before = await held(running)
        outcomes += await calls(running, CALLS - WARM, chance)
        after = await held(running)
    print(f"\n{dict(outcomes)}")
    for name in before:
        print(f"{name}: {before[name]} -> {after[name]}")
    for name, was in before.items():
        more = Held(*(now - then for now, then in zip(after[name], was, strict=True)))
        assert more.mib < MOST_MIB, name
        assert max(more.descriptors, more.threads, more.tasks) <= MOST_MORE, name
