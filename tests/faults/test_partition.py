"""A worker or a tokenizer service on a machine that is cut off and joined again: packets vanish, and nobody is told."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.fleet.tokenizer_instance import SILENT_SECONDS as TOKENIZER_SILENT_SECONDS
from gateway.fleet.worker_load import SILENT_SECONDS
from tests.end_to_end.stack import NAME
from tests.faults.asks import Ask, Recorded
from tests.faults.matrix import COMPLETED
from tests.faults.namespace import LACKING, Namespace, namespace
from tests.faults.rolling import METHODS
from tests.faults.rules import violations
from tests.processes import GATEWAY, TOKENIZER, WORKER, Process, ready_process, scripted
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.faults.history import History

pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"this machine lacks {LACKING}")

SCRIPT = {"seconds_per_step": 0.02, "seconds_per_token": 0.001}
DEADLINE_SECONDS = 20.0
CALLS = 8
CHECK_SECONDS = 1.0  # between looks at who is silent, at most
SLACK_SECONDS = 1.0  # of a busy machine
JOINED_SECONDS = 15.0  # until what was cut off is asked again: the kernel waits ever longer before it tries again


@pytest.fixture
def far() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@dataclass
class Parted:
    """A gateway here; of one kind of service one here and one over there."""

    far: Process
    method: str
    stub: Any

    async def calls(self, tokens: int, first: int = 0) -> list[Recorded]:
        """Some that have begun."""
        asks = [Ask(first + number, 20, tokens, DEADLINE_SECONDS) for number in range(CALLS)]
        calls = [Recorded(self.stub, ask.in_text, ask) for ask in asks]
        await asyncio.gather(*(call.begun() for call in calls))
        return calls

    def served(self) -> int:
        """So many calls have ended well over there."""
        return sum(f'{self.method}", "code": "OK"' in line for line in self.far.lines)

    async def serves_again(self) -> float:
        """Ask until it is asked there again; how long that takes."""
        before, began = self.served(), time.monotonic()
        async with asyncio.timeout(JOINED_SECONDS):
            while self.served() == before:
                check([await call.over() for call in await self.calls(2, first=100)])
        return time.monotonic() - began


@asynccontextmanager
async def parted(folder: Path, far: Namespace, kind: str) -> AsyncIterator[Parted]:
    flags = {
        TOKENIZER: ["--model", f"{NAME}={folder}", "--threads", "1"],
        WORKER: [*scripted(folder, **SCRIPT), "--served-model-name", NAME],
    }
    async with AsyncExitStack() as stack:
        starts = [ready_process(one, *flags[one]) for one in (TOKENIZER, WORKER)]
        starts.append(ready_process(kind, *flags[kind], host=far.host, within=far.within))
        started = await asyncio.gather(*(stack.enter_async_context(start) for start in starts))
        tokenizer, worker, over_there = (address for _, address in started)
        behind = ["--tokenizer", tokenizer, "--worker", worker, "--tokenizer" if kind == TOKENIZER else "--worker"]
        _, address = await stack.enter_async_context(ready_process(GATEWAY, *behind, over_there))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        running = Parted(started[2][0], METHODS[kind], gateway_pb2_grpc.InferenceServiceStub(channel))
        await running.serves_again()
        yield running


def check(histories: list[History]) -> None:
    assert not violations(histories)
    assert {history.outcome for history in histories} == {COMPLETED}


async def test_streams_of_a_worker_whose_link_is_down_go_on_at_another_one(folder: Path, far: Namespace) -> None:
    async with parted(folder, far, WORKER) as running:
        calls = await running.calls(100)
        served = running.served()
        far.cut_off()
        histories = [await call.over() for call in calls]
        check(histories)
        silences = [history.longest_silence for history in histories]
        assert running.served() == served
        assert max(silences) > SILENT_SECONDS - CHECK_SECONDS, "no stream was over there"
        assert max(silences) < SILENT_SECONDS + CHECK_SECONDS + SLACK_SECONDS
        far.join()
        seconds = await running.serves_again()
    print(f"\n{max(silences):.1f} s without a word; asked again {seconds:.1f} s after the link came up")


async def test_calls_go_past_a_tokenizer_service_whose_link_is_down(folder: Path, far: Namespace) -> None:
    async with parted(folder, far, TOKENIZER) as running:
        running_on = await running.calls(100)
        far.cut_off()
        silences = []
        for first in (10, 20):
            histories = [await call.over() for call in await running.calls(2, first)]
            check(histories)
            silences.append(max(history.longest_silence for history in histories))
        check([await call.over() for call in running_on])
        assert silences[0] < TOKENIZER_SILENT_SECONDS + CHECK_SECONDS + SLACK_SECONDS
        assert silences[1] < SLACK_SECONDS, "it was asked again"
        far.join()
        seconds = await running.serves_again()
    print(f"\n{silences[0]:.1f} s without a word; asked again {seconds:.1f} s after the link came up")
