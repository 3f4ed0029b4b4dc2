"""Who goes first, who shares with whom and who is refused, as callers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from model_worker.engines.fake_faults import Gate
from tests.end_to_end.heard import refusal
from tests.end_to_end.requests import chat, generate, generate_tokens
from tests.end_to_end.stack import gated_stack, reached

if TYPE_CHECKING:
    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROMPT = [5, 6, 7]
TENANT = "x-tenant-id"


async def order_of(stack: Stack, gate: Gate, calls: dict[str, Any]) -> list[str]:
    """Make `calls` one after the other while one request is worked on, then let all be; who was answered when."""
    first = stack.gateway.Generate(generate_tokens(PROMPT))
    await reached(gate)
    answered: list[str] = []

    async def answer(name: str, call: Any) -> None:
        await call
        answered.append(name)

    tasks = []
    for place, (name, make) in enumerate(calls.items()):
        tasks.append(asyncio.create_task(answer(name, make())))
        await stack.gateway_server.calls.are(2 + place)
    gate.open()
    await asyncio.gather(first, *tasks)
    return answered


async def test_a_higher_priority_goes_first_and_equals_in_their_order(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway={"max_inflight": 1}) as stack:
        asked = {"low": -1, "usual": 0, "high": 10, "usual too": 0}
        calls = {
            name: lambda priority=priority: stack.gateway.Generate(generate_tokens(PROMPT, priority=priority))
            for name, priority in asked.items()
        }
        assert await order_of(stack, gate, calls) == ["high", "usual", "usual too", "low"]
        assert stack.inflight == 0


async def test_tenants_take_turns_however_much_one_of_them_asks_for(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway={"max_inflight": 1}) as stack:
        calls = {
            f"{tenant} {number}": lambda tenant=tenant: stack.gateway.Generate(
                generate_tokens(PROMPT), metadata=((TENANT, tenant),)
            )
            for tenant, count in (("flood", 6), ("modest", 2))
            for number in range(count)
        }
        answered = await order_of(stack, gate, calls)
        assert [name.split()[0] for name in answered[:4]].count("modest") == 2


async def test_what_waits_is_not_tokenized_and_a_queue_that_is_full_refuses(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway={"max_inflight": 1, "max_queue_tokens": 40}) as stack:
        first = stack.gateway.Generate(generate_tokens(PROMPT))
        await reached(gate)
        before = tier.server.calls.begun
        waiting = stack.gateway.Generate(generate("a text"))
        await stack.gateway_server.calls.are(2)
        heard = await refusal(stack.gateway.Generate(generate("a text " * 20)))
        assert (heard.code, heard.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert heard.retry_after_seconds is not None
        assert 0.1 <= heard.retry_after_seconds <= 60
        assert tier.server.calls.begun == before
        gate.open()
        await asyncio.gather(first, waiting)
        assert tier.server.calls.begun == before + 1


async def test_a_tenants_own_limit_has_its_own_reason(tier: TokenizerTier) -> None:
    gate = Gate()
    limits = {"tenant_max_inflight": 1, "tenant_max_queue": 0, "tenant_key": "x-team"}
    async with gated_stack(tier, gate, gateway=limits) as stack:
        first = stack.gateway.Generate(generate_tokens(PROMPT), metadata=(("x-team", "a"),))
        await reached(gate)
        heard = await refusal(stack.gateway.Generate(generate_tokens(PROMPT), metadata=(("x-team", "a"),)))
        assert (heard.code, heard.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_QUEUE_FULL")
        assert heard.retry_after_seconds
        other = stack.gateway.Generate(generate_tokens(PROMPT), metadata=(("x-team", "b"),))
        await stack.worker_server.calls.are(2)
        gate.open()
        await asyncio.gather(first, other)


async def test_the_workers_rows_say_how_much_is_sent_to_them_and_the_rest_waits_in_the_gateway(
    tier: TokenizerTier,
) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, worker={"max_num_seqs": 2}) as stack:
        calls = [stack.gateway.Generate(generate_tokens(PROMPT)) for _ in range(10)]
        await stack.gateway_server.calls.are(10)
        await stack.worker_server.calls.are(4)
        assert stack.gateway_service._admission.queued == 6
        gate.open()
        assert [len((await call).outputs[0].token_ids) for call in calls] == [10] * 10


@pytest.mark.parametrize("priority", [-11, 11, 2**31 - 1])
@pytest.mark.parametrize("make", [generate, chat])
async def test_a_priority_outside_the_range_is_refused_by_name(stack: Stack, make: Any, priority: int) -> None:
    method = stack.gateway.Generate if make is generate else stack.gateway.Chat
    heard = await refusal(method(make(priority=priority)))
    assert (heard.code, heard.field) == (grpc.StatusCode.INVALID_ARGUMENT, "priority")


async def test_a_tenant_of_no_name_is_refused(stack: Stack) -> None:
    heard = await refusal(stack.gateway.Generate(generate(), metadata=((TENANT, "two words"),)))
    assert (heard.code, heard.field) == (grpc.StatusCode.INVALID_ARGUMENT, TENANT)
