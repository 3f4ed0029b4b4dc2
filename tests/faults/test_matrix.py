"""Any part is killed, stopped, told to end or cut off, at any moment: no caller hears anything wrong, or nothing.

Every call is recorded and judged by the rules. Afterwards what can be healed is healed, nothing may be left of the
calls anywhere, and a gateway that lives serves as before.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.faults.asks import Ask, Recorded
from tests.faults.fleet import fleet
from tests.faults.matrix import BEFORE, CELLS, COMPLETED, GATEWAY, MID_STREAM, ONE_TOKENIZER, PREFILL, WORKER, Cell
from tests.faults.rules import violations
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.fleet import Fleet, Part
    from tests.faults.matrix import Matrix

CALLS = 12  # per cell
TOKENS = 100
DEADLINE_SECONDS = 15.0
ENDS = {"SIGKILL": -9, "SIGTERM": 0}  # and the exit code
LEAST_REQUEST_BYTES = 100  # more than what connections say to each other by themselves
SCRIPT = {"seconds_per_step": 0.02, "seconds_per_token": 0.001}
SAMPLE = [Cell("SIGKILL", MID_STREAM, WORKER), Cell("cut", BEFORE, WORKER), Cell("SIGKILL", MID_STREAM, GATEWAY)]


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_whatever_fails_callers_hear_the_truth(cell: Cell, folder: Path, matrix: Matrix) -> None:
    await check(cell, folder, matrix, CALLS, TOKENS)


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
async def test_some_of_what_can_fail(cell: Cell, folder: Path, matrix: Matrix) -> None:
    await check(cell, folder, matrix, 4, 30)


async def check(cell: Cell, folder: Path, matrix: Matrix, calls: int, tokens: int) -> None:
    tokenizers = 2 if cell.part == ONE_TOKENIZER else 1
    async with fleet(folder, SCRIPT, SCRIPT, tokenizers=tokenizers) as running:
        prompt_tokens = 300 if cell.moment == PREFILL else 20
        asks = [Ask(number, prompt_tokens, tokens, DEADLINE_SECONDS) for number in range(calls)]
        struck = {WORKER: running.workers, GATEWAY: [running.gateway]}.get(cell.part, running.tokenizers)[0]
        recorded = await call_and_strike(cell, running, struck, asks)
        histories = await asyncio.gather(*(one.over() for one in recorded))
        breaches = violations(histories)
        matrix.seen.setdefault(cell, []).extend(histories)
        matrix.breaches += len(breaches)
        assert not breaches
        assert {history.outcome for history in histories} <= cell.outcomes
        struck.heal(cell.fault)
        if cell.fault in ENDS:
            assert await struck.process.exit_code() == ENDS[cell.fault]
        await running.quiet()
        if running.gateway.is_alive:
            await serves_again(running)


async def call_and_strike(cell: Cell, running: Fleet, struck: Part, asks: list[Ask]) -> list[Recorded]:
    """Make the calls, and strike at the moment that the cell names."""
    # Before the first token calls are held on their way: to the part that is struck, or from the gateway that is.
    held = (running.tokenizers[0] if struck is running.gateway else struck).proxy
    if cell.moment == BEFORE:
        held.hold()
    calls = [Recorded(running.stub, ask.in_text, ask) for ask in asks]
    if cell.moment == BEFORE:
        await held.holds(LEAST_REQUEST_BYTES)
    elif cell.moment == PREFILL:
        # All have passed the tokenizer then, and prompts take a second or two.
        await running.have_rows(sum(ask.samples for ask in asks))
    else:
        await asyncio.gather(*(call.begun() for call in calls))
    struck.strike(cell.fault)
    if cell.fault != "blackhole" or held is not struck.proxy:
        held.release()
    return calls


async def serves_again(running: Fleet) -> None:
    """All is as before; and the gateway ends without having to end a call."""
    asks = [Ask(100 + number, 20, 5, DEADLINE_SECONDS) for number in range(CALLS)]
    async with grpc.aio.insecure_channel(running.gateway.address) as channel:
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        calls = [Recorded(stub, ask.in_tokens, ask) for ask in asks]
        histories = await asyncio.gather(*(call.over() for call in calls))
    assert not violations(histories)
    assert {history.outcome for history in histories} == {COMPLETED}
    gateway = running.gateway.process
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit_code() == 0
    (stopped,) = [line for line in gateway.lines if '"stopped"' in line]
    assert '"ended_calls": 0' in stopped
