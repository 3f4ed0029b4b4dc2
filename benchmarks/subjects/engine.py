"""Our engine and its generation loop as in a worker, without gRPC: what the full stack is compared with."""

from __future__ import annotations

import asyncio
import functools
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.load.generator import closed_loop
from benchmarks.load.requests import Request
from benchmarks.load.statistics import Summary, decode_tokens_per_second, percentile, summarize
from benchmarks.load.trace import Trace
from benchmarks.subjects.remote import SubjectError
from model_worker.batching.generation_loop import GenerationLoop
from model_worker.batching.row_events import FailedEvent, FinishedEvent, TokensEvent
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.engines.choice import load_engine
from model_worker.sequence import RowParams, SamplingParams
from model_worker.settings import WorkerSettings
from rpc.settings import load_settings

GREEDY = SamplingParams()
STEADY_TOKENS = 12  # of each stream before the long prompt comes: enough gaps to compare with


@dataclass(frozen=True, slots=True)
class PauseRun:
    """What a long prompt does to the streams that are decoding. Seconds between one token and the next."""

    before_p50: float
    during_p99: float
    during_max: float
    first_token: float  # of the long prompt


class EngineSubject:
    """An engine loaded as `python -m model_worker` with the same flags would load it."""

    def __init__(self, model: Path, flags: Sequence[str]) -> None:
        settings = load_settings(WorkerSettings, "benchmarks", ["--model", str(model), *flags], {})
        engine = load_engine(settings, lambda _: None)
        self._weight_bytes = engine.spec.weight_bytes
        limits = SchedulerLimits(settings.max_num_seqs, settings.max_num_batched_tokens, settings.max_queued_rows)
        self._generation = GenerationLoop(engine, limits, enable_prefix_caching=settings.enable_prefix_caching)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self._start())

    def weight_bytes(self) -> int:
        """Weights and buffers of the model."""
        return self._weight_bytes

    def closed(self, requests: Sequence[Request], in_flight: int) -> Summary:
        """`requests`, `in_flight` of them at a time."""
        return summarize(self._runner.run(closed_loop(self._send, requests, in_flight)))

    def decode(self, requests: Sequence[Request], sampling: Sequence[SamplingParams] = ()) -> float:
        """Tokens per second while all `requests` decode together; greedy, or with each one's `sampling`."""
        return decode_tokens_per_second(self._runner.run(self._together(requests, sampling)))

    def pause(self, streams: Sequence[Request], long: Request) -> PauseRun:
        """Let `long` arrive while all `streams` are decoding."""
        return self._runner.run(self._pause(streams, long))

    async def _start(self) -> None:
        self._generation.start(asyncio.get_running_loop())

    async def _send(
        self,
        request: Request,
        sampling: SamplingParams = GREEDY,
        heard: Callable[[Trace], None] = lambda _: None,
    ) -> Trace:
        params = RowParams(sampling=sampling, ignore_eos=True, max_new_tokens=request.max_new_tokens)
        trace = Trace(len(request.ids))
        async for events in self._generation.submit([(array("i", request.ids), params)]):
            for event in events:
                if isinstance(event, TokensEvent):
                    trace.hear(len(event.ids))
                    heard(trace)
                elif isinstance(event, FailedEvent):
                    raise SubjectError(event.message)
                elif isinstance(event, FinishedEvent):
                    trace.engine_first_token_seconds = event.timing.time_to_first_token_seconds
        trace.end()
        return trace

    async def _together(self, requests: Sequence[Request], sampling: Sequence[SamplingParams]) -> list[Trace]:
        settings = sampling or [GREEDY] * len(requests)
        return await asyncio.gather(*map(self._send, requests, settings))

    async def _pause(self, streams: Sequence[Request], long: Request) -> PauseRun:
        steady = [asyncio.Event() for _ in streams]

        def note(event: asyncio.Event, trace: Trace) -> None:
            if trace.tokens >= STEADY_TOKENS:
                event.set()

        running = [
            asyncio.create_task(self._send(request, heard=functools.partial(note, event)))
            for request, event in zip(streams, steady, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in steady))
        arrived = await self._send(long)
        return _pauses(await asyncio.gather(*running), arrived)


def _pauses(streams: Sequence[Trace], long: Trace) -> PauseRun:
    """The gaps of `streams` while they alone were decoding, and while the prompt of `long` was computed.

    Precondition: `streams` were decoding before `long` was sent, and went on after its first token.
    """
    alone_from, answered_at = max(stream.arrivals[0][0] for stream in streams), long.arrivals[0][0]
    before, during = [], []
    for stream in streams:
        for (earlier, _), gap in zip(stream.arrivals, stream.gaps, strict=False):
            if alone_from <= earlier and earlier + gap <= long.sent_at:
                before.append(gap)
            elif earlier + gap > long.sent_at and earlier < answered_at:
                during.append(gap)
    return PauseRun(percentile(before, 50), percentile(during, 99), max(during), long.first_token_seconds)
