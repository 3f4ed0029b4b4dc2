"""GenerateMany: calls that share a stream, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from model_worker.engine import RowFailure
from model_worker.engines.fake_faults import Gate, fail_rows, raise_at
from model_worker.many_calls import MAX_UNREAD_RESPONSES
from rpc.status import to_duration
from tests.end_to_end.heard import refusal
from tests.end_to_end.stack import gated_stack, running_stack
from tests.end_to_end.worker_calls import HeardRows, ask, hear_rows, start
from tokenmill.v1 import generation_pb2, worker_pb2
from tokenmill.v1.worker_pb2 import CallRequest, GenerateManyRequest, RowParams, StartCall

if TYPE_CHECKING:
    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
CODE = grpc.StatusCode
LONG = [RowParams(max_new_tokens=4000)]


class Stream:
    """One stream to the worker, and what was heard of its calls."""

    def __init__(self, stack: Stack, *, counts: bool = True) -> None:
        self.stack = stack
        self.rpc: Any = stack.worker.GenerateMany()
        self.heard: dict[int, HeardRows] = defaultdict(HeardRows)
        self.ends: dict[int, worker_pb2.CallEnd] = {}
        self.responses = 0
        self.counts = counts

    async def ask(self, *calls: CallRequest) -> None:
        await self.rpc.write(GenerateManyRequest(calls=calls, responses_read=self.responses))

    async def hear(self) -> None:
        """One response."""
        response = await self.rpc.read()
        assert response is not grpc.aio.EOF
        self.responses += 1
        assert response.calls, "an empty message"
        for said in response.calls:
            assert said.call not in self.ends, "something after the end"
            if said.events:
                self.heard[said.call].take(worker_pb2.WorkerServiceGenerateResponse(events=said.events))
            if said.HasField("end"):
                self.ends[said.call] = said.end
        if self.counts:
            with suppress(grpc.aio.AioRpcError):  # it may have ended meanwhile
                await self.ask()

    async def hear_ends(self, *calls: int) -> None:
        while not set(calls) <= set(self.ends):
            await self.hear()


def begin(stack: Stack, call: int, *prompts: list[int], timeout: float | None = None, **given: Any) -> CallRequest:
    started = StartCall(start=start(stack, prompts, **given))
    if timeout is not None:
        started.timeout.CopyFrom(to_duration(timeout))
    return CallRequest(call=call, start=started)


async def test_every_call_hears_what_it_would_hear_alone(stack: Stack) -> None:
    prompts = {7: [[1, 2, 3]], 3: [[4], [5, 6]], 2**64 - 1: [[1, 2, 3]]}
    stream = Stream(stack)
    await stream.ask(*(begin(stack, call, *rows) for call, rows in prompts.items()))
    await stream.hear_ends(*prompts)
    for call, rows in prompts.items():
        alone = await hear_rows(ask(stack, start(stack, rows)))
        assert stream.heard[call].ids == alone.ids
        assert set(stream.heard[call].ends) == set(alone.ends)
        assert stream.ends[call] == worker_pb2.CallEnd()


async def test_closing_the_sending_side_lets_calls_end_and_then_the_stream(stack: Stack) -> None:
    stream = Stream(stack, counts=False)
    await stream.ask(begin(stack, 1, [1, 2, 3], rows=[RowParams(max_new_tokens=50)]))
    await stream.rpc.done_writing()
    await stream.hear_ends(1)
    assert await stream.rpc.code() is CODE.OK
    assert len(stream.heard[1].ids[0]) == 50


async def test_a_call_that_is_refused_leaves_the_others_undisturbed(stack: Stack) -> None:
    stream = Stream(stack)
    await stream.ask(begin(stack, 1, [1], model="another"), begin(stack, 2, [2]), begin(stack, 3, [3], rows=[]))
    await stream.hear_ends(1, 2, 3)
    assert (stream.ends[1].error.reason, stream.ends[1].field) == ("UNKNOWN_MODEL", "start.model")
    assert (stream.ends[3].error.code, stream.ends[3].field) == (CODE.INVALID_ARGUMENT.value[0], "start.rows")
    assert not stream.ends[2].HasField("error")
    assert len(stream.heard[2].ids[0]) == 10


async def test_the_failure_of_a_single_row_is_its_calls(tier: TokenizerTier) -> None:
    failing = fail_rows(RowFailure("LOGITS_NOT_FINITE", "no"), lambda _, segment: segment.sequence.ids[0] == 9)
    async with running_stack(tier, failing) as stack:
        stream = Stream(stack)
        await stream.ask(begin(stack, 1, [9]), begin(stack, 2, [9], [1]))
        await stream.hear_ends(1, 2)
        assert (stream.ends[1].error.code, stream.ends[1].error.reason) == (13, "LOGITS_NOT_FINITE")
        assert not stream.ends[2].HasField("error")
        assert stream.heard[2].ends[0].failed.reason == "LOGITS_NOT_FINITE"


async def test_calls_are_stopped_cancelled_and_run_out_of_time_each_on_its_own(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack:
        stream = Stream(stack)
        calls = [begin(stack, call, [call], rows=LONG, timeout=0.2 if call == 3 else 100) for call in (1, 2, 3)]
        await stream.ask(*calls, begin(stack, 4, [4]))
        await stream.ask(CallRequest(call=1, stop_row=worker_pb2.StopRow(row=0)), CallRequest(call=2, cancel=True))
        await stream.ask(CallRequest(call=2, cancel=True), CallRequest(call=99, cancel=True))  # which changes nothing
        await stream.hear_ends(3)
        assert stream.ends[3].error.reason == "DEADLINE_EXCEEDED"
        await stack.worker_server.calls.are(2)
        gate.open()
        await stream.hear_ends(1, 4)
        assert stream.heard[1].ends[0].finished.reason == generation_pb2.FINISH_REASON_STOP_STRING
        assert len(stream.heard[4].ids[0]) == 10
        assert 2 not in stream.ends
        await stack.idle()


async def test_leaving_the_stream_frees_everything(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack:
        stream = Stream(stack)
        await stream.ask(*(begin(stack, call, [call], rows=LONG) for call in range(1, 9)))
        await stack.worker_server.calls.are(8)
        stream.rpc.cancel()
        await stack.worker_server.calls.are(0)
        gate.open()
        await stack.idle()


async def test_what_is_not_read_is_merged(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack:
        stream = Stream(stack, counts=False)
        await stream.ask(begin(stack, 1, [1], rows=[RowParams(max_new_tokens=1000)]))
        for _ in range(MAX_UNREAD_RESPONSES):
            gate.allow(1)
            await stream.hear()
        gate.open()
        await stack.idle()
        await stream.ask()
        await stream.hear_ends(1)
        assert stream.responses == MAX_UNREAD_RESPONSES + 1
        assert len(stream.heard[1].ids[0]) == 1000


MISTAKES = {
    "a call without a message": ([CallRequest(call=1)], "calls.message"),
    "a number that runs": ([CallRequest(call=1, start=StartCall())] * 2, "calls.call"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_what_no_caller_does_ends_the_stream(stack: Stack, name: str) -> None:
    requests, field = MISTAKES[name]
    stream = Stream(stack)
    await stream.ask(*requests)
    heard = await refusal(stream.rpc)
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, field)
    await stack.idle()


async def test_an_engine_that_breaks_ends_every_call_at_once(tier: TokenizerTier) -> None:
    """Right after a step, so that tokens and failure are found together, and nothing comes after them."""
    async with running_stack(tier, raise_at(8, RuntimeError("broken"))) as stack:
        stream = Stream(stack)
        await stream.ask(begin(stack, 1, [1], rows=LONG), begin(stack, 2, [2], rows=LONG))
        await stream.hear_ends(1, 2)
        assert {end.error.reason for end in stream.ends.values()} == {"ENGINE_BROKEN"}
