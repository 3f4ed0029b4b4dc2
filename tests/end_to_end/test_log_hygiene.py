"""What people write and what models answer never appears in a log, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from model_worker.engine import RowFailure
from model_worker.engines.fake_faults import Gate, fail_rows, raise_at
from tests.end_to_end.marker import MARKER, check, failed, logs, speak
from tests.end_to_end.requests import Sampling, Stopping, chat, generate, generate_tokens, message
from tests.end_to_end.speaker import speaker
from tests.end_to_end.stack import gated_stack, held, reached, running_stack
from tokenmill.v1 import gateway_pb2, tokenizer_pb2

if TYPE_CHECKING:
    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_calls_that_succeed_log_counts_and_no_text(tier: TokenizerTier) -> None:
    script = tier.tokenizer.encode(f"{MARKER}, ").ids
    with logs() as written:
        async with running_stack(tier, model=speaker(tier, *[script] * 425)) as stack:
            await speak(stack)
    check(written, calls=6)
    assert '"completion_tokens": 20' in written.getvalue()


async def test_calls_that_are_refused_log_a_reason_and_no_text(stack: Stack) -> None:
    gateway, tokenizer = stack.gateway, stack.tier.stub
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    with logs() as written:
        assert await failed(gateway.StreamChat(chat(message(MARKER, role=MARKER)))) is invalid
        assert await failed(gateway.Chat(chat(message(MARKER, role="tool")))) is invalid
        assert await failed(gateway.Chat(chat(message(MARKER), template_kwargs={"nothing": MARKER}))) is invalid
        assert await failed(gateway.Chat(chat(message(MARKER), template_kwargs={"messages": MARKER}))) is invalid
        broken_call = gateway_pb2.ToolCall(name=MARKER, arguments=f"{{{MARKER}")
        assert await failed(gateway.Chat(chat(message(role="assistant", tool_calls=[broken_call])))) is invalid
        assert await failed(gateway.Generate(generate(MARKER, model=MARKER))) is grpc.StatusCode.NOT_FOUND
        assert await failed(gateway.Generate(generate(MARKER * 4000))) is invalid
        assert await failed(gateway.Generate(generate(MARKER, sampling=Sampling(temperature=-1)))) is invalid
        assert await failed(gateway.Generate(generate(stopping=Stopping(stop_strings=[MARKER * 20])))) is invalid
        assert await failed(gateway.Generate(generate(cache_salt=MARKER * 20))) is invalid
        prompts = gateway_pb2.TextPrompts(texts=[MARKER * 300_000])
        assert await failed(tokenizer.Encode(tokenizer_pb2.EncodeRequest(prompts=prompts))) is invalid
        for method in ("Generate", "Chat", "Poe"):
            raw = stack.gateway_channel.unary_unary(f"/tokenmill.v1.InferenceService/{method}")
            wanted = grpc.StatusCode.UNIMPLEMENTED if method == "Poe" else invalid
            assert await failed(raw(b"\xff" + MARKER.encode())) is wanted
    check(written, calls=12)


async def test_failures_inside_log_their_kind_and_no_text(tier: TokenizerTier) -> None:
    failure = RowFailure("LOGITS_NOT_FINITE", f"the message of a failure is for its caller: {MARKER}")
    script = tier.tokenizer.encode(f"{MARKER}, ").ids
    model = speaker(tier, *[script] * 425)
    with logs() as written:
        async with running_stack(tier, fail_rows(failure, lambda step, _: step == 6), model=model) as stack:
            assert await failed(stack.gateway.Chat(chat(message(MARKER)))) is grpc.StatusCode.INTERNAL
        async with running_stack(tier, raise_at(6, RuntimeError(MARKER)), model=model) as stack:
            assert await failed(stack.gateway.StreamChat(chat(message(MARKER)))) is grpc.StatusCode.UNAVAILABLE
            await stack.worker_server.life
    check(written, calls=4)
    assert "RuntimeError" in written.getvalue()


async def test_calls_that_are_given_up_log_no_text(tier: TokenizerTier) -> None:
    gate = Gate()
    with logs() as written:
        async with gated_stack(tier, gate) as stack:
            call = stack.gateway.StreamChat(chat(message(MARKER)))
            await reached(gate)
            call.cancel()
            await stack.gateway_server.calls.are(0)
            async with held(tier.service):
                late = stack.gateway.Generate(generate(MARKER), timeout=0.1)
                assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                await stack.gateway_server.calls.are(0)
            await stack.worker_server.calls.are(0)
            running = stack.gateway.Generate(generate_tokens(tier.tokenizer.encode(MARKER).ids))
            await stack.worker_server.calls.are(1)
            gate.open()
            await running
    check(written, calls=4)
    assert "CANCELLED" in written.getvalue()
