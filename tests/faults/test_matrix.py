"""Any part is killed, stopped, told to end or cut off, at any moment: no caller hears anything wrong, or nothing.

Every call is recorded and judged by the rules. Afterwards what can be healed is healed, nothing may be left of the
calls anywhere, and a gateway that lives serves as many calls again as it takes at once.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import grpc
import pytest

from model_worker.engines.fake_engine import FakeModel
from tests.faults.asks import TOKENIZER, Ask, Recorded
from tests.faults.fleet import fleet
from tests.faults.matrix import CELLS, COMPLETED, MOMENTS, Cell
from tests.faults.rules import violations
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.fleet import Fleet, Part
    from tests.faults.matrix import Matrix

CALLS = 12  # per cell
TOKENS = 100
DEADLINE_SECONDS = 15.0
LEAST_REQUEST_BYTES = 100  # more than what connections say to each other by themselves
SCRIPT = {"seconds_per_step": 0.02, "seconds_per_token": 0.001}
# As many as are called at once, and no queue: a place that is not given back is missed.
GATEWAY_FLAGS = ["--max-inflight", str(CALLS), "--max-queue", "0"]
MODEL = FakeModel(vocabulary_size=max(TOKENIZER.get_vocab().values()) + 1)
SAMPLE = [
    Cell(fault, moment, part)
    for fault, moment, part in (
        ("SIGKILL", MOMENTS[2], "worker"),
        ("SIGSTOP", MOMENTS[1], "worker"),
        ("SIGKILL", MOMENTS[2], "gateway"),
        ("SIGKILL", MOMENTS[0], "tokenizer"),
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_whatever_fails_callers_hear_the_truth(cell: Cell, folder: Path, matrix: Matrix) -> None:
    await check(cell, folder, matrix, CALLS)


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
async def test_some_of_what_can_fail(cell: Cell, folder: Path, matrix: Matrix) -> None:
    await check(cell, folder, matrix, 4)


async def check(cell: Cell, folder: Path, matrix: Matrix, calls: int) -> None:
    tokenizers = 2 if cell.part == "one of two tokenizers" else 1
    async with fleet(folder, tokenizers=tokenizers, script=SCRIPT, gateway_flags=GATEWAY_FLAGS) as running:
        prompt_tokens = 300 if cell.moment == "during prefill" else 20
        asks = [Ask(number, prompt_tokens, TOKENS, DEADLINE_SECONDS) for number in range(calls)]
        struck = {"worker": running.workers, "gateway": [running.gateway]}.get(cell.part, running.tokenizers)[0]
        recorded = await call_and_strike(cell, running, struck, asks)
        histories = await asyncio.gather(*(one.over() for one in recorded))
        breaches = violations(histories)
        matrix.seen.setdefault(cell, []).extend(histories)
        matrix.breaches += len(breaches)
        assert not breaches
        assert {history.outcome for history in histories} <= cell.outcomes
        await struck.heal(cell.fault)
        if cell.part == "gateway" and cell.fault in {"SIGKILL", "SIGTERM"}:
            await running.gateway.process.exit_code()
        await running.quiet()
        if running.gateway.is_alive:
            await serves_again(running)


async def call_and_strike(cell: Cell, running: Fleet, struck: Part, asks: list[Ask]) -> list[Recorded]:
    """Make the calls, and strike at the moment that the cell names."""
    # Before the first token calls are held on their way: to the part that is struck, or from the gateway that is.
    held = (running.tokenizers[0] if struck is running.gateway else struck).proxy
    if cell.moment == "before the first token":
        held.hold()
    calls = [Recorded(running.stub, ask.in_text, ask, MODEL) for ask in asks]
    if cell.moment == "before the first token":
        await held.holds(LEAST_REQUEST_BYTES)
    elif cell.moment == "during prefill":
        worker = struck if struck in running.workers else running.workers[0]
        await running.load(worker, lambda load: load.running and load.queued_prompt_tokens)
    else:
        await asyncio.gather(*(call.begun() for call in calls))
    await struck.strike(cell.fault)
    if cell.fault != "blackhole" or held is not struck.proxy:
        held.release()
    return calls


async def serves_again(running: Fleet) -> None:
    """Nothing is left of what was: all places are free, and the gateway ends without having to end a call."""
    asks = [Ask(100 + number, 20, 5, DEADLINE_SECONDS) for number in range(CALLS)]
    async with grpc.aio.insecure_channel(running.gateway.address) as channel:
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        calls = [Recorded(stub, ask.in_tokens, ask, MODEL) for ask in asks]
        histories = await asyncio.gather(*(call.over() for call in calls))
    assert not violations(histories)
    assert {history.outcome for history in histories} == {COMPLETED}
    gateway = running.gateway.process
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit_code() == 0
    (stopped,) = [line for line in gateway.lines if '"stopped"' in line]
    assert '"ended_calls": 0' in stopped
