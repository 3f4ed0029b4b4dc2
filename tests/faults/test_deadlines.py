"""Deadlines by chance, far more work than fits: nothing goes on past its deadline, nothing begins past it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.faults.asks import Ask, Recorded
from tests.faults.fleet import fleet
from tests.faults.matrix import COMPLETED, DEADLINE
from tests.faults.rules import violations

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tests.processes import Process

CALLS = 200
TOKENS = 60
STEP_SECONDS = 0.05
BUSY_SECONDS = 0.5  # by which a busy machine may be late


class Worked(NamedTuple):
    """When the worker began and ended a call, in seconds since the epoch."""

    began: float
    ended: float


async def worked(worker: Process, request_ids: Collection[str]) -> dict[str, Worked]:
    """What the worker has done, by request id, from its log; it is told to stop."""
    worker.signal(signal.SIGTERM)
    assert await worker.exit_code() == 0
    lines = [json.loads(line) for line in worker.lines if line.startswith("{")]
    return {line["request_id"]: _worked(line) for line in lines if line.get("request_id") in request_ids}


def _worked(line: dict[str, Any]) -> Worked:
    ended = datetime.fromisoformat(line["time"]).timestamp()
    return Worked(ended - line["duration_ms"] / 1000, ended)


@pytest.mark.slow
async def test_no_call_outlives_its_deadline_and_none_begins_after_it(folder: Path) -> None:
    chance = random.Random(7)
    asks = [Ask(number, 20, TOKENS, chance.uniform(0.2, 8.0)) for number in range(CALLS)]
    deadlines, calls = {}, []
    async with fleet(folder, {"seconds_per_step": STEP_SECONDS}, gateway=["--max-inflight", "16"]) as running:
        for number, ask in enumerate(asks):
            request_id = f"call-{number}"
            deadlines[request_id] = time.time() + ask.deadline_seconds
            calls.append(Recorded(running.stub, ask.in_tokens, ask, request_id))
        histories = await asyncio.gather(*(call.over() for call in calls))
        await running.quiet()
        done = await worked(running.workers[0].process, deadlines)
    assert not violations(histories)
    outcomes = Counter(history.outcome for history in histories)
    assert set(outcomes) == {COMPLETED, DEADLINE}
    late = [done[one].began - deadlines[one] for one in done if done[one].began > deadlines[one]]
    over = [done[one].ended - deadlines[one] for one in done]
    print(f"\n{outcomes}, {CALLS - len(done)} never started; the last ended {max(over):.3f} s after its deadline")
    assert max(late, default=0.0) < BUSY_SECONDS
    assert max(over) < STEP_SECONDS + BUSY_SECONDS
    assert CALLS - len(done) > CALLS / 4, "the queue was too short to expire in"
