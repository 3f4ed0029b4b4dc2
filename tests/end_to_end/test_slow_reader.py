"""A reader that stops reading costs a bounded amount of memory, and nobody else waits for it."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest

from tests.end_to_end.heard import Heard, hear
from tests.end_to_end.requests import Stopping, generate_tokens
from tests.end_to_end.speaker import speaker
from tests.end_to_end.stack import SMALL_WINDOW, address, running_stack
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
MIB = 2**20
TOKENS = 40_000
SAYING = "red, blue, green, yellow "


def resident() -> int:
    """Bytes of memory that this process, with all three services and the caller in it, holds."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def test_a_long_stream_that_nobody_reads_costs_a_few_megabytes(tier: TokenizerTier) -> None:
    script = tier.tokenizer.encode(SAYING).ids
    model = speaker(tier, script, script, context_length=TOKENS + 100, kv_capacity_tokens=TOKENS + 1000)
    async with running_stack(tier, model=model) as stack:
        before = resident()
        channel = grpc.aio.insecure_channel(address(stack.gateway_server), options=SMALL_WINDOW)
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        call = stub.StreamGenerate(generate_tokens([0], stopping=Stopping(max_new_tokens=TOKENS)))
        heard = Heard()
        while not heard.delta_sizes:
            heard.take(await call.read())
        other = await hear(stack.gateway.StreamGenerate(generate_tokens([1], stopping=Stopping(max_new_tokens=200))))
        assert len(other.token_ids[0]) == 200
        await stack.worker_server.calls.are(0)  # generated to its end, though nobody reads it
        risen = (resident() - before) / MIB
        print(f"\nunread: {TOKENS} tokens, {risen:.1f} MiB in one process for gateway, worker and caller")
        assert risen < 48
        while (response := await call.read()) is not grpc.aio.EOF:
            heard.take(response)
        await channel.close()
    assert heard.texts[0] == tier.tokenizer.decode((script * (TOKENS // len(script) + 1))[:TOKENS])
    assert heard.token_ids[0] == (script * (TOKENS // len(script) + 1))[:TOKENS]
    print(f"messages: {len(heard.delta_sizes)}, the first {heard.delta_sizes[0]}, the largest {max(heard.delta_sizes)}")
    assert max(heard.delta_sizes) > 10_000
