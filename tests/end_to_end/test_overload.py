"""Five times more than two workers can do: what is done all the same, who is refused, and what that costs."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from benchmarks.load.statistics import percentile
from tests.end_to_end.heard import refusal_of
from tests.end_to_end.requests import Stopping, generate
from tests.end_to_end.stack import NAME, address
from tests.processes import GATEWAY, WORKER, ready_process, scripted
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]
TOKENS, STEP_SECONDS, ROWS, WORKERS = 40, 0.02, 8, 2
QUEUE = 32
TIMES = 5
WARM_SECONDS, SECONDS = 5.0, 30.0
MIB = 2**20


@dataclass
class Service:
    gateway: Any  # stub
    process: psutil.Process


@asynccontextmanager
async def service(tier: TokenizerTier) -> AsyncIterator[Service]:
    script = scripted(tier.folder, ids=[40, 41, 42], seconds_per_step=STEP_SECONDS)
    flags = [*script, "--served-model-name", NAME, "--max-num-seqs", str(ROWS)]
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(ready_process(WORKER, *flags)) for _ in range(WORKERS)]
        targets = [flag for _, where in workers for flag in ("--worker", where)]
        limits = ["--max-queue", str(QUEUE)]
        gateway, where = await stack.enter_async_context(
            ready_process(GATEWAY, "--tokenizer", address(tier.server), *targets, *limits)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(where))
        yield Service(gateway_pb2_grpc.InferenceServiceStub(channel), psutil.Process(gateway.pid))


@dataclass
class Answers:
    """What came back, in seconds: when each answer did, and how long each answer and each refusal took."""

    gateway: Any
    ended: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    async def ask(self) -> None:
        began = time.monotonic()
        try:
            answer = await self.gateway.Generate(generate(stopping=Stopping(max_new_tokens=TOKENS)), timeout=60)
        except grpc.aio.AioRpcError as error:
            refused = refusal_of(error)
            assert refused.reason == "QUEUE_FULL"
            assert refused.retry_after_seconds is not None
            self.told.append(refused.retry_after_seconds)
            self.refused.append(time.monotonic() - began)
        else:
            assert answer.usage.completion_tokens == TOKENS
            self.ended.append(time.monotonic())
            self.took.append(self.ended[-1] - began)

    def per_second(self, began: float) -> float:
        """Answers, between the warm-up and the end."""
        inside = [moment for moment in self.ended if began + WARM_SECONDS < moment < began + SECONDS]
        return len(inside) / (SECONDS - WARM_SECONDS)


async def capacity(gateway: Any) -> float:
    """Answers per second where half as much again as the workers compute at once is always asked, and never more."""
    answers, began = Answers(gateway), time.monotonic()

    async def one_after_the_other() -> None:
        while time.monotonic() < began + SECONDS:
            await answers.ask()

    await asyncio.gather(*(one_after_the_other() for _ in range(ROWS * WORKERS * 3 // 2)))
    assert not answers.refused
    return answers.per_second(began)


async def overload(gateway: Any, per_second: float, memory: Any) -> tuple[Answers, float, list[float]]:
    answers, began = Answers(gateway), time.monotonic()
    resident, tasks = [], []
    for number in range(int(per_second * SECONDS)):
        await asyncio.sleep(began + number / per_second - time.monotonic())
        tasks.append(asyncio.create_task(answers.ask()))
        if number % int(per_second) == 0:
            resident.append(memory())
    await asyncio.gather(*tasks)
    return answers, answers.per_second(began), resident


async def test_at_five_times_the_capacity_as_much_is_done_as_ever_and_the_rest_is_refused_at_once(
    tier: TokenizerTier,
) -> None:
    async with service(tier) as running:
        most = await capacity(running.gateway)
        answers, goodput, resident = await overload(
            running.gateway, TIMES * most, lambda: running.process.memory_info().rss / MIB
        )
    queue_seconds = QUEUE / most
    figures = {
        "capacity, answers/s": most,
        "goodput, answers/s": goodput,
        "goodput, share of capacity": goodput / most,
        "answered": len(answers.took),
        "answered p50, s": statistics.median(answers.took),
        "answered p99, s": percentile(answers.took, 99),
        "refused": len(answers.refused),
        "refused p50, ms": 1000 * statistics.median(answers.refused),
        "refused p99, ms": 1000 * percentile(answers.refused, 99),
        "told to come back after p50, s": statistics.median(answers.told),
        "the queue takes, s": queue_seconds,
        "gateway at first, MiB": resident[int(WARM_SECONDS)],
        "gateway at last, MiB": resident[-1],
    }
    print("\n" + "\n".join(f"{name}: {value:.2f}" for name, value in figures.items()))
    assert goodput > 0.95 * most
    assert statistics.median(answers.refused) < 0.05
    assert percentile(answers.took, 99) < 2 * (queue_seconds + TOKENS * STEP_SECONDS)
    assert queue_seconds / 2 < statistics.median(answers.told) < 2 * queue_seconds
    assert resident[-1] < resident[int(WARM_SECONDS)] + 8
