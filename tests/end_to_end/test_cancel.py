"""A call that is cancelled or expires stops costing, in whatever phase it is, and leaves every gauge at zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from model_worker.engines.fake_faults import Gate
from model_worker.many_calls import ManyCalls
from rpc.call import Call
from rpc.status import to_seconds
from tests.end_to_end.heard import refusal
from tests.end_to_end.requests import Stopping, chat, generate, generate_tokens
from tests.end_to_end.stack import gated_stack, held, reached
from tests.end_to_end.worker_calls import Request, ask, hear_rows, start
from tokenmill.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROMPT = [5, 6, 7]
LONG = Stopping(max_new_tokens=4000)


async def gone(stack: Stack) -> None:
    """Return once no call does work any more anywhere."""
    for server in (stack.gateway_server, stack.worker_server, stack.tier.server):
        await server.calls.are(0)
    assert stack.inflight == 0


async def answers(stack: Stack) -> None:
    """The next request is served as if nothing had been."""
    answer = await stack.gateway.Generate(generate("The quick brown fox"))
    assert answer.usage.completion_tokens == 10


METHODS: dict[str, Callable[[Stack], Any]] = {
    "stream": lambda stack: stack.gateway.StreamChat(chat(stopping=LONG)),
    "unary": lambda stack: stack.gateway.Chat(chat(stopping=LONG)),
}


@pytest.mark.parametrize("method", METHODS)
async def test_while_tokenizing(stack: Stack, method: str) -> None:
    before = (await stack.idle()).step
    async with held(stack.tier.service):
        call = METHODS[method](stack)
        await stack.tier.server.calls.are(1)
        call.cancel()
        await gone(stack)
        assert (await stack.idle()).step == before
    await answers(stack)


async def test_in_the_gateways_queue(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway={"max_inflight": 1}) as stack:
        first = stack.gateway.Generate(generate_tokens(PROMPT))
        await reached(gate)
        second = stack.gateway.StreamGenerate(generate_tokens(PROMPT))
        await stack.gateway_server.calls.are(2)
        assert stack.inflight == 2
        second.cancel()
        await stack.gateway_server.calls.are(1)
        assert stack.inflight == 1
        gate.open()
        assert (await first).usage.completion_tokens == 10
        await gone(stack)
        await answers(stack)


@pytest.mark.parametrize("method", METHODS)
async def test_in_the_workers_queue(tier: TokenizerTier, method: str) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, worker={"max_num_seqs": 1}) as stack:
        first = stack.gateway.StreamGenerate(generate_tokens(PROMPT, stopping=LONG))
        await reached(gate)
        second = METHODS[method](stack)
        while not (await stack.load()).waiting:  # until it has arrived, one step after the other
            gate.allow(1)
            await reached(gate)
        second.cancel()
        await stack.worker_server.calls.are(1)
        before = (await stack.load()).step
        gate.allow(1)
        await reached(gate)
        after = await stack.load()
        assert (after.running, after.waiting, after.step) == (1, 0, before + 1)
        first.cancel()
        await gone(stack)
        gate.open()
        await stack.idle()
        await answers(stack)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 1, 3], ids=["in the first chunk of the prompt", "in the second", "decoding"])
async def test_while_it_is_computed(tier: TokenizerTier, method: str, steps: int) -> None:
    gate = Gate()
    # The prompt of a chat of these tests has about 20 tokens: two chunks.
    async with gated_stack(tier, gate, worker={"max_num_batched_tokens": 16, "max_num_seqs": 16}) as stack:
        call = METHODS[method](stack)
        await reached(gate)
        gate.allow(steps)
        await reached(gate)
        before = await stack.load()
        assert (before.running, before.kv_tokens_used > 0) == (1, True)
        call.cancel()
        await gone(stack)
        gate.allow(1)  # the step that was on its way
        after = await stack.idle()
        assert after.step == before.step + 1
        assert (after.running, after.waiting, after.kv_tokens_used, after.queued_prompt_tokens) == (0, 0, 0, 0)
        gate.open()
        await answers(stack)


async def test_two_hundred_at_once_and_the_next_is_served_at_once(tier: TokenizerTier) -> None:
    gate = Gate()
    gateway = {"max_inflight": 64, "max_inflight_rows": 64, "max_inflight_tokens": 1_000_000}
    async with gated_stack(tier, gate, gateway=gateway, worker={"max_num_seqs": 16}) as stack:
        calls = [METHODS[("stream", "unary")[number % 2]](stack) for number in range(200)]
        await stack.gateway_server.calls.are(200)
        await stack.worker_server.calls.are(64)
        assert stack.inflight == 200
        for call in calls:
            call.cancel()
        await gone(stack)
        before = (await stack.load()).step
        gate.allow(1)
        after = await stack.idle()
        assert after.step == before + 1
        gate.open()
        await answers(stack)


async def test_a_worker_alone_frees_the_rows_of_a_call_that_is_cancelled(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack:
        call = stack.worker.Generate()
        rows = [worker_pb2.RowParams(max_new_tokens=4000) for _ in range(4)]
        await call.write(Request(start=start(stack, [[number] for number in range(4)], rows=rows)))
        await reached(gate)
        call.cancel()
        await gone(stack)
        gate.open()
        await stack.idle()
        assert len((await hear_rows(ask(stack, start(stack, [PROMPT])))).ids[0]) == 10


class TestDeadlines:
    async def test_an_expired_call_ends_everywhere(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate) as stack:
            call = stack.gateway.StreamGenerate(generate_tokens(PROMPT, stopping=LONG), timeout=0.2)
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await gone(stack)
            gate.open()
            await stack.idle()
            await answers(stack)

    async def test_it_ends_while_tokenizing(self, stack: Stack) -> None:
        before = (await stack.idle()).step
        async with held(stack.tier.service):
            assert await stack.gateway.Chat(chat(), timeout=0.2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await gone(stack)
        assert (await stack.idle()).step == before
        await answers(stack)

    async def test_a_caller_without_a_deadline_has_the_gateways(self, tier: TokenizerTier) -> None:
        gate = Gate()
        limits = {"default_deadline_seconds": 0.2, "max_inflight": 1}
        async with gated_stack(tier, gate, gateway=limits) as stack:
            before = stack.worker_server.calls.begun
            first = stack.gateway.Generate(generate_tokens(PROMPT), timeout=100)  # keeps the only place
            await reached(gate)
            heard = await refusal(stack.gateway.Generate(generate_tokens(PROMPT)))
            assert (heard.code, heard.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
            gate.open()
            assert (await first).usage.completion_tokens == 10
            await gone(stack)
            assert stack.worker_server.calls.begun - before == 1, "what expires in the queue is never started"

    async def test_no_deadline_is_later_than_the_latest(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate, gateway={"max_deadline_seconds": 0.2}) as stack:
            heard = await refusal(stack.gateway.Generate(generate_tokens(PROMPT), timeout=100))
            assert heard.code is grpc.StatusCode.DEADLINE_EXCEEDED
            await gone(stack)

    async def test_both_services_are_told_what_is_left(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        told: dict[str, float | None] = {}
        handled = Call.handled

        def spy(call: Call, context: Any) -> Any:
            if call.is_work:
                told[call.record.method.rpartition("/")[2]] = context.time_remaining()
            return handled(call, context)

        begin = ManyCalls._begin

        def spy_on_worker(calls: ManyCalls, number: int, started: worker_pb2.StartCall) -> None:
            told["Generate"] = to_seconds(started.timeout)
            begin(calls, number, started)

        monkeypatch.setattr(Call, "handled", spy)
        monkeypatch.setattr(ManyCalls, "_begin", spy_on_worker)
        await stack.gateway.Chat(chat(), timeout=60)
        assert set(told) == {"Chat", "Encode", "Generate"}
        assert all(seconds is not None and 50 < seconds < 61 for seconds in told.values())
        told.clear()
        await stack.gateway.Chat(chat())
        assert told.pop("Chat") is None
        assert set(told) == {"Encode", "Generate"}
        assert all(seconds is not None and 500 < seconds < 601 for seconds in told.values()), "the gateway's own"
