"""One of two workers with the real model is killed amid greedy and seeded streams: nobody can tell from the text."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.end_to_end.heard import Heard
from tests.end_to_end.requests import OutputOptions, Sampling, Stopping, generate
from tests.processes import GATEWAY, TOKENIZER, WORKER, ready_process
from tests.real_model.prompts import CHATS
from tests.real_model.stack import EXACT, SMALL
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.processes import Process

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(600)]
STREAMS = 16  # half of them greedy, half of them seeded
TOKENS = 60
KILLED_AFTER = 15  # tokens of every stream


@asynccontextmanager
async def fleet(model: Path) -> AsyncIterator[tuple[list[Process], Any]]:
    """Two workers, and a caller of the gateway before them."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(ready_process(WORKER, "--model", str(model), *EXACT, *SMALL))
            for _ in range(2)
        ]
        _, tokenizer = await stack.enter_async_context(ready_process(TOKENIZER, "--model", str(model)))
        flags = [flag for _, where in workers for flag in ("--worker", where)]
        gateway, address = await stack.enter_async_context(ready_process(GATEWAY, "--tokenizer", tokenizer, *flags))
        await gateway.has_logged("worker ready", len(workers))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield [process for process, _ in workers], gateway_pb2_grpc.InferenceServiceStub(channel)


class Stream:
    """One call, with what was heard of it and the longest silence."""

    def __init__(self, gateway: Any, number: int) -> None:
        sampling = Sampling(temperature=0) if number < STREAMS // 2 else Sampling(temperature=0.9, seed=number)
        stopping = Stopping(max_new_tokens=TOKENS, ignore_eos=True)
        options = OutputOptions(token_ids=True)
        [message], _ = CHATS[number]
        self.call = gateway.StreamGenerate(
            generate(message["content"], sampling=sampling, stopping=stopping, output=options)
        )
        self.heard = Heard()
        self.longest_gap = 0.0

    async def hear(self, tokens: int) -> None:
        """Until it has so many, or to its end."""
        while len(self.heard.token_ids[0]) < tokens and not self.heard.ends:
            waited_from = time.monotonic()
            response = await self.call.read()
            if self.heard.token_ids[0]:
                self.longest_gap = max(self.longest_gap, time.monotonic() - waited_from)
            self.heard.take(response)


async def said(workers: list[Process], gateway: Any, *, killing: bool) -> tuple[list[str], float]:
    """The texts of all streams, and the longest gap between two messages of one."""
    streams = [Stream(gateway, number) for number in range(STREAMS)]
    await asyncio.gather(*(stream.hear(KILLED_AFTER) for stream in streams))
    if killing:
        workers[0].signal(signal.SIGKILL)
    await asyncio.gather(*(stream.hear(TOKENS + 1) for stream in streams))
    for stream in streams:
        assert stream.heard.ends[0].usage.completion_tokens == TOKENS == len(stream.heard.token_ids[0])
    return [stream.heard.texts[0] for stream in streams], max(stream.longest_gap for stream in streams)


async def test_sixteen_texts_are_those_of_an_undisturbed_run(demo_model: Path) -> None:
    async with fleet(demo_model) as (workers, gateway):
        undisturbed, usual_gap = await said(workers, gateway, killing=False)
        disturbed, longest_gap = await said(workers, gateway, killing=True)
        assert await workers[0].exit_code() == -signal.SIGKILL
    assert disturbed == undisturbed
    assert len(set(undisturbed)) > STREAMS // 2, "the seeds count"
    print(f"\nlongest gap of a stream: {longest_gap:.2f} s, and {usual_gap:.2f} s where nobody is killed")
