"""Measurements with each service in a process of its own: memory for an unread stream, and what it costs the others."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import psutil
import pytest

from tests.end_to_end.heard import Heard, hear
from tests.end_to_end.requests import Stopping, generate_tokens
from tests.end_to_end.stack import NAME, SMALL_WINDOW, address
from tests.processes import GATEWAY, WORKER, ready_process, scripted
from tokenmill.v1 import gateway_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]
TOKENS = 200_000
SAYING = "red, blue, green, yellow "
MIB = 2**20


class Services(NamedTuple):
    """A gateway and a worker, each in a process of its own."""

    gateway: Any  # stubs
    worker: Any
    gateway_address: str
    processes: list[psutil.Process]


@asynccontextmanager
async def services(tier: TokenizerTier, step_seconds: float) -> AsyncIterator[Services]:
    said = tier.tokenizer.encode(SAYING).ids
    script = scripted(tier.folder, ids=said, seconds_per_step=step_seconds, context_length=TOKENS + 1000)
    async with AsyncExitStack() as stack:
        worker, worker_address = await stack.enter_async_context(
            ready_process(WORKER, *script, "--served-model-name", NAME)
        )
        gateway, gateway_address = await stack.enter_async_context(
            ready_process(GATEWAY, "--tokenizer", address(tier.server), "--worker", worker_address)
        )
        gateway_channel = await stack.enter_async_context(grpc.aio.insecure_channel(gateway_address))
        worker_channel = await stack.enter_async_context(grpc.aio.insecure_channel(worker_address))
        yield Services(
            gateway_pb2_grpc.InferenceServiceStub(gateway_channel),
            worker_pb2_grpc.WorkerServiceStub(worker_channel),
            gateway_address,
            [psutil.Process(gateway.pid), psutil.Process(worker.pid)],
        )


def resident(processes: list[psutil.Process]) -> list[float]:
    return [process.memory_info().rss / MIB for process in processes]


async def unread(channel: grpc.aio.Channel) -> tuple[Any, Heard]:
    """A stream of TOKENS tokens of which only the beginning is read."""
    gateway, heard = gateway_pb2_grpc.InferenceServiceStub(channel), Heard()
    call = gateway.StreamGenerate(generate_tokens([0], stopping=Stopping(max_new_tokens=TOKENS)))
    while not heard.delta_sizes:
        heard.take(await call.read())
    return call, heard


async def idle(worker: Any) -> None:
    async for response in worker.WatchLoad(worker_pb2.WatchLoadRequest()):
        if not response.load.running:
            return


@pytest.mark.parametrize("options", [[], SMALL_WINDOW], ids=["the usual window", "a small window"])
async def test_memory_for_a_stream_of_200_000_tokens_that_nobody_reads(tier: TokenizerTier, options: Any) -> None:
    async with services(tier, step_seconds=0) as (gateway, worker, gateway_address, processes):
        caller = grpc.aio.insecure_channel(gateway_address, options=options)
        await hear(gateway.StreamGenerate(generate_tokens([0], stopping=Stopping(max_new_tokens=2000))))
        before = resident(processes)
        call, heard = await unread(caller)
        await idle(worker)
        risen = [after - was for after, was in zip(resident(processes), before, strict=True)]
        print(f"\n{TOKENS} unread tokens: gateway +{risen[0]:.1f} MiB, worker +{risen[1]:.1f} MiB")
        assert sum(risen) < 32
        while (response := await call.read()) is not grpc.aio.EOF:
            heard.take(response)
        await caller.close()
    script = tier.tokenizer.encode(SAYING).ids
    assert heard.texts[0] == tier.tokenizer.decode((script * (TOKENS // len(script) + 1))[:TOKENS])
    print(f"messages: {len(heard.delta_sizes)}, the largest has {max(heard.delta_sizes)} characters")


async def test_the_others_go_on_as_if_it_were_not_there(tier: TokenizerTier) -> None:
    async with services(tier, step_seconds=0.004) as (gateway, _, gateway_address, _):
        caller = grpc.aio.insecure_channel(gateway_address, options=SMALL_WINDOW)

        async def eight() -> float:
            """Seconds for eight streams of 500 tokens."""
            began = time.perf_counter()
            request = generate_tokens([1], stopping=Stopping(max_new_tokens=500))
            await asyncio.gather(*(hear(gateway.StreamGenerate(request)) for _ in range(8)))
            return time.perf_counter() - began

        await eight()
        alone = min([await eight() for _ in range(3)])
        unread_call, _ = await unread(caller)
        beside = min([await eight() for _ in range(3)])
        assert not unread_call.done()
        await caller.close()
        print(f"\neight streams alone {alone:.2f} s, beside one that nobody reads {beside:.2f} s: {beside / alone:.3f}")
        assert beside < alone * 1.05
