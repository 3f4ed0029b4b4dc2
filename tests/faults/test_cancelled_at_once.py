"""Two thousand callers who leave in the same moment."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.asks import Ask, Recorded
from tests.faults.fleet import fleet
from tests.faults.matrix import COMPLETED

if TYPE_CHECKING:
    from pathlib import Path

STREAMS = 2000
RUNNING = 64
CONTEXT = 4096
QUIET_SECONDS = 2.0
NEXT_SECONDS = 1.0  # that the next call takes: two steps of the worker, and whatever is still in its way


@pytest.mark.slow
async def test_after_2000_streams_that_were_cancelled_at_once_nothing_is_left(folder: Path) -> None:
    script = {"ids": [40, 41, 42], "seconds_per_step": 0.2}
    workers = ["--max-num-seqs", str(RUNNING), "--max-queued-rows", str(STREAMS)]
    # Else nearly all would wait in the gateway, and not hold rows of the worker's.
    gateway = ["--max-inflight", str(STREAMS), "--max-inflight-rows", str(STREAMS)]
    gateway += ["--max-inflight-tokens", str(STREAMS * CONTEXT)]
    async with fleet(folder, script, workers=workers, gateway=gateway) as running:
        ask = Ask(0, 10, 3000, 120.0)
        calls = [running.stub.StreamGenerate(ask.in_tokens) for _ in range(STREAMS)]
        await running.have_rows(STREAMS)
        began = time.monotonic()
        for call in calls:
            call.cancel()
        await running.quiet()
        quiet = time.monotonic() - began
        next_ask = Ask(1, 10, 1, 10.0)
        last = await Recorded(running.stub, next_ask.in_tokens, next_ask).over()
        print(f"\nnothing left after {quiet:.2f} s; the next call took {last.seconds:.3f} s")
        assert quiet < QUIET_SECONDS
        assert last.outcome == COMPLETED
        assert last.seconds is not None
        assert last.seconds < NEXT_SECONDS
        await asyncio.wait([asyncio.ensure_future(call.code()) for call in calls])
