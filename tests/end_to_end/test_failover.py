"""Workers that die, freeze or leave in the middle of streams: callers see what an undisturbed run would have said."""

from __future__ import annotations

import asyncio
import signal
from array import array
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.sequence import RowParams, SamplingParams
from tests.end_to_end.heard import Heard
from tests.end_to_end.requests import FinishReason, OutputOptions, Sampling, Stopping, generate_tokens
from tests.end_to_end.stack import NAME, address, open_channel
from tests.model_worker.generation_support import expected
from tests.processes import WORKER, ready_process, scripted
from tests.serving import ready
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier
    from tests.processes import Process

pytestmark = pytest.mark.asyncio(loop_scope="session")
TOKENS = 150
STEP_SECONDS = 0.02
STREAMS = 16  # half of them greedy, half of them seeded
PROMPT = [5, 6, 7, 8]


@dataclass
class Fleet:
    """Two workers in processes of their own behind a gateway."""

    workers: list[Process]
    gateway: Any
    service: GatewayService


@asynccontextmanager
async def fleet(tier: TokenizerTier, *more: str, workers: int = 2, **gateway: Any) -> AsyncIterator[Fleet]:
    flags = [*scripted(tier.folder, seconds_per_step=STEP_SECONDS), "--served-model-name", NAME, *more]
    async with AsyncExitStack() as stack:
        started = await asyncio.gather(
            *(stack.enter_async_context(ready_process(WORKER, *flags)) for _ in range(workers))
        )
        targets = {"tokenizer": (address(tier.server),), "worker": tuple(where for _, where in started)}
        settings = GatewaySettings(**targets, port=0, drain_seconds=0, **gateway)
        service = GatewayService(settings)
        server = await stack.enter_async_context(ready(service, settings))
        while len(service._workers.ready_models()) < workers:
            await service._workers.wait_for_change()
        channel = await stack.enter_async_context(open_channel(server))
        yield Fleet([process for process, _ in started], gateway_pb2_grpc.InferenceServiceStub(channel), service)


def sampling(stream: int) -> Sampling:
    return Sampling(temperature=0) if stream < STREAMS // 2 else Sampling(temperature=1, seed=stream)


def prompt(stream: int) -> list[int]:
    return [*PROMPT, 10 + stream]


def undisturbed(tier: TokenizerTier, stream: int) -> list[int]:
    params = SamplingParams() if stream < STREAMS // 2 else SamplingParams(temperature=1.0, seed=stream)
    ids, _ = expected(array("i", prompt(stream)), RowParams(sampling=params, max_new_tokens=TOKENS), tier.model())
    return ids


class Streams:
    """Sixteen calls at once, or fewer."""

    def __init__(self, gateway: Any, count: int = STREAMS) -> None:
        self.calls = [
            gateway.StreamGenerate(
                generate_tokens(
                    prompt(stream),
                    sampling=sampling(stream),
                    stopping=Stopping(max_new_tokens=TOKENS),
                    output=OutputOptions(token_ids=True, logprobs=True),
                )
            )
            for stream in range(count)
        ]
        self.heard = [Heard() for _ in self.calls]

    async def begin(self) -> None:
        """Return once each of them has had a few tokens."""
        for call, heard in zip(self.calls, self.heard, strict=True):
            while len(heard.delta_sizes) < 3:
                heard.take(await call.read())

    async def check(self, tier: TokenizerTier) -> None:
        """Hear them to their ends, which are those of an undisturbed run."""
        for stream, (call, heard) in enumerate(zip(self.calls, self.heard, strict=True)):
            while (response := await call.read()) is not grpc.aio.EOF:
                heard.take(response)
            assert heard.token_ids[0] == undisturbed(tier, stream)
            assert [one.token_id for one in heard.logprobs[0]] == heard.token_ids[0]
            end = heard.ends[0]
            assert end.finish.reason == FinishReason.FINISH_REASON_MAX_NEW_TOKENS
            assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (len(prompt(stream)), TOKENS)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGTERM SIGSTOP"])
async def test_all_streams_go_on_when_one_of_two_workers_is_lost(tier: TokenizerTier, how: str) -> None:
    async with fleet(tier) as two:
        streams = Streams(two.gateway)
        await streams.begin()
        ready = two.service._workers
        for name in how.split():
            two.workers[0].signal(signal.Signals[name])
            while name == "SIGTERM" and len(ready.ready_models()) == 2:
                await ready.wait_for_change()
        await streams.check(tier)
        assert two.service._admission.inflight == 0


async def test_streams_survive_a_worker_that_was_alone_and_comes_back(tier: TokenizerTier) -> None:
    async with fleet(tier, workers=1) as one:
        streams = Streams(one.gateway)
        await streams.begin()
        one.workers[0].signal(signal.SIGSTOP)
        (lost,) = one.service._workers._workers
        while lost.is_ready:
            await one.service._workers.wait_for_change()
        one.workers[0].signal(signal.SIGCONT)
        await streams.check(tier)


async def test_a_stream_that_loses_its_worker_waits_until_a_full_one_has_room(tier: TokenizerTier) -> None:
    async with fleet(tier, "--max-num-seqs", "1", "--max-queued-rows", "0", failover_seconds=60) as two:
        streams = Streams(two.gateway, count=2)
        await streams.begin()
        two.workers[0].signal(signal.SIGKILL)
        await streams.check(tier)
        assert two.service._admission.inflight == 0
