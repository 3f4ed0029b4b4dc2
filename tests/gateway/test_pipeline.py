"""The pipeline between a scripted tokenizer service and a scripted worker."""

from __future__ import annotations

import asyncio
from array import array
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.admission.gate import Admission
from gateway.admission.limits import Limits
from gateway.admission.ticket import Ticket
from gateway.admission.work import Work
from gateway.deadline import Deadline
from gateway.generation import (
    EncodedPrompts,
    Event,
    FinishReason,
    Generation,
    OutputDelta,
    OutputFailed,
    OutputFinished,
    Row,
    RowEvent,
    RowFailed,
    RowFinished,
    RowTokens,
    Sampling,
    Started,
    Stopping,
    Timing,
    Usage,
)
from gateway.models import ServedModel
from gateway.pipeline import Pipeline
from rpc.errors import ServiceError, unavailable
from rpc.seeds import mix64
from tests.gateway.artefacts_for_tests import family

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

ARTEFACT = family("byte-level")
PROMPT = array("i", ARTEFACT.tokenizer.encode("The quick brown fox").ids)
LOST = unavailable("PEER_UNAVAILABLE", "the model worker cannot be reached")

Script = list[list[RowEvent] | ServiceError | Exception]


def model(**given: Any) -> ServedModel:
    defaults: dict[str, Any] = {
        "name": "tiny",
        "base": "tiny",
        "context_length": 1000,
        "vocabulary_size": ARTEFACT.vocabulary_size,
        "vocabulary_fingerprint": "f",
        "eos_token_ids": (),
        "quantization": "none",
        "effective_sampling": lambda sampling: sampling,
        "default_max_new_tokens": 100,
    }
    return ServedModel(**(defaults | given))


NEVER = Deadline()


def ids_of(text: str) -> array[int]:
    return array("i", ARTEFACT.tokenizer.encode(text).ids)


def finished(row: int, reason: FinishReason = FinishReason.MAX_NEW_TOKENS, token_id: int | None = None) -> RowFinished:
    return RowFinished(row, reason, token_id, Usage(4, 3, 99), Timing(queue=0.5, prefill=0.25, decode=2.0))


@dataclass
class Tokenizers:
    """Encodes every prompt as PROMPT, once it is let to."""

    encoding: asyncio.Event = field(default_factory=asyncio.Event)
    may_encode: asyncio.Event = field(default_factory=asyncio.Event)

    async def encode(self, model: ServedModel, generation: Generation, deadline: Deadline) -> EncodedPrompts:
        self.encoding.set()
        await self.may_encode.wait()
        return EncodedPrompts([PROMPT] * generation.prompt_count, "f")

    async def artefact(self, model: ServedModel, vocabulary_fingerprint: str) -> Any:
        return ARTEFACT


@dataclass
class Worker:
    """Says what is in its script; `stopped` are the rows it was asked to stop."""

    script: Script
    rows: Sequence[Row] = ()
    stopped: list[int] = field(default_factory=list)
    is_asked: bool = False
    all_said: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline) -> Worker:
        self.rows = rows
        return self

    async def events(self) -> AsyncGenerator[Sequence[RowEvent], None]:
        self.is_asked = True
        try:
            for events in self.script:
                if isinstance(events, Exception):
                    raise events
                yield events
            self.all_said.set()
        finally:
            self.is_asked = False

    async def stop_row(self, row: int) -> None:
        self.stopped.append(row)


@dataclass
class Bench:
    """A pipeline whose clock the test sets."""

    worker: Worker
    tokenizers: Tokenizers = field(default_factory=Tokenizers)
    admission: Admission = field(default_factory=lambda: Admission(Limits(max_inflight=1, max_queue=1), lambda _: None))
    now: float = 100.0

    def __post_init__(self) -> None:
        self.tokenizers.may_encode.set()

    def run(
        self, generation: Generation, model_: ServedModel | None = None, deadline: Deadline = NEVER
    ) -> AsyncGenerator[Event, None]:
        pipeline = Pipeline(self.admission, self.tokenizers, self.worker, clock=lambda: self.now)
        return pipeline.run(generation, model_ or model(), deadline)

    async def all_of(self, generation: Generation) -> list[Event]:
        async with aclosing(self.run(generation)) as events:
            return [event async for event in events]


def bench(*script: list[RowEvent] | Exception) -> Bench:
    return Bench(Worker(list(script)))


def generation(**given: Any) -> Generation:
    return Generation(model="tiny", prompt=None, **given)


async def until_failure(events: AsyncGenerator[Event, None]) -> tuple[list[Event], ServiceError]:
    heard: list[Event] = []
    try:
        async for event in events:
            heard.append(event)  # noqa: PERF401 - what came before the failure is kept
    except ServiceError as error:
        return heard, error
    raise AssertionError("it did not fail")


async def test_started_comes_first_and_then_each_output_to_its_end() -> None:
    tokens = ids_of(" jumps")
    test = bench([RowTokens(1, tokens)], [RowTokens(0, tokens), finished(1)], [finished(0)])
    events = await test.all_of(generation(n=2, sampling=Sampling(seed=7), token_ids=True))
    assert events[0] == Started("tiny", Sampling(seed=7), (100,), (len(PROMPT),))
    assert [type(event) for event in events[1:]].count(OutputFinished) == 2
    for index in (0, 1):
        text = "".join(event.text for event in events if isinstance(event, OutputDelta) and event.index == index)
        (end,) = [event for event in events if isinstance(event, OutputFinished) and event.index == index]
        assert text == " jumps"
        assert end.seed == mix64(7, index)
        assert end.usage == Usage(len(PROMPT), 3, len(tokens))


async def test_a_worker_that_ends_without_a_terminal_for_each_output_has_failed() -> None:
    test = bench([RowTokens(0, ids_of(" jumps"))], [finished(1)])
    heard, error = await until_failure(test.run(generation(n=2)))
    assert [event.index for event in heard if isinstance(event, OutputFinished)] == [1]
    assert error.code is grpc.StatusCode.INTERNAL


async def test_a_stop_string_stops_its_row_once_and_the_output_is_finished_by_the_workers_word() -> None:
    test = bench(
        [RowTokens(0, ids_of(" jumps over")), RowTokens(1, ids_of(" dog"))],
        [RowTokens(0, ids_of(" the lazy dog"))],
        [finished(0, FinishReason.STOP_STRING), finished(1)],
    )
    events = await test.all_of(generation(n=2, stopping=Stopping(stop_strings=("mps",))))
    assert test.worker.stopped == [0]
    ends = {event.index: event for event in events if isinstance(event, OutputFinished)}
    assert (ends[0].reason, ends[0].stop_string) == (FinishReason.STOP_STRING, "mps")
    assert ends[1].reason is FinishReason.MAX_NEW_TOKENS
    assert "".join(event.text for event in events if isinstance(event, OutputDelta) and event.index == 0) == " ju"


async def test_a_row_that_ends_with_the_tokens_that_match_needs_no_stop() -> None:
    test = bench([RowTokens(0, ids_of(" jumps over")), finished(0)])
    events = await test.all_of(generation(stopping=Stopping(stop_strings=("mps",))))
    assert test.worker.stopped == []
    assert isinstance(events[-1], OutputFinished)
    assert events[-1].reason is FinishReason.STOP_STRING


async def test_an_output_that_has_matched_is_whole_though_the_worker_is_lost() -> None:
    test = bench([RowTokens(0, ids_of(" jumps over"))], LOST)
    events = await test.all_of(generation(stopping=Stopping(stop_strings=("mps",))))
    assert isinstance(events[-1], OutputFinished)
    assert events[-1].stop_string == "mps"


async def test_a_lost_worker_fails_the_request_after_what_was_said() -> None:
    test = bench([RowTokens(0, ids_of(" jumps over"))], LOST)
    heard, error = await until_failure(test.run(generation()))
    assert "".join(event.text for event in heard if isinstance(event, OutputDelta)) == " jumps over"
    assert error is LOST


async def test_a_worker_that_is_lost_after_the_last_terminal_has_not_failed_the_request() -> None:
    test = bench([finished(0)], LOST)
    assert isinstance((await test.all_of(generation()))[-1], OutputFinished)


async def test_a_failed_row_is_a_failed_output_and_the_others_go_on() -> None:
    test = bench([RowFailed(0, LOST)], [RowTokens(1, ids_of(" dog")), finished(1)])
    events = await test.all_of(generation(n=2))
    assert [(event.index, event.error) for event in events if isinstance(event, OutputFailed)] == [(0, LOST)]
    assert isinstance(events[-1], OutputFinished)


async def test_time_that_runs_out_while_tokenizing_ends_every_output_with_what_there_is() -> None:
    test = bench()
    test.tokenizers.may_encode.clear()
    limited = generation(n=2, prompt_count=2, sampling=Sampling(seed=7), stopping=Stopping(time_limit_seconds=0.01))
    started, *ends = await test.all_of(limited)
    assert isinstance(started, Started)
    assert started.sampling == Sampling(seed=7)
    assert [event.index for event in ends if isinstance(event, OutputFinished)] == [0, 1, 2, 3]
    assert {event.reason for event in ends if isinstance(event, OutputFinished)} == {FinishReason.TIME_LIMIT}
    assert [event.seed for event in ends if isinstance(event, OutputFinished)] == [7, mix64(7, 1)] * 2
    assert test.worker.rows == ()
    assert test.admission.inflight == 0


async def test_time_that_runs_out_in_the_queue_leaves_the_queue() -> None:
    test = bench([finished(0)])
    async with test.admission.admitted(Ticket("tiny")):
        _, end = await test.all_of(generation(stopping=Stopping(time_limit_seconds=0.01)))
        assert test.admission.queued == 0
    assert isinstance(end, OutputFinished)
    assert end.reason is FinishReason.TIME_LIMIT
    assert test.admission.inflight == 0


async def test_a_deadline_is_no_time_limit_although_its_timer_may_wake_a_moment_early() -> None:
    test = bench()
    test.tokenizers.may_encode.clear()
    a_moment_before = Deadline(at=100.01, clock=lambda: 100.0)
    with pytest.raises(ServiceError) as refused:
        async for _ in test.run(generation(), deadline=a_moment_before):
            pass
    assert refused.value.reason == "DEADLINE_EXCEEDED"
    assert test.admission.inflight == 0


async def test_the_worker_gets_what_is_left_of_the_time() -> None:
    test = bench([finished(0)])

    def advance(event: asyncio.Event = test.tokenizers.encoding) -> None:
        test.now += 7

    test.tokenizers.may_encode.clear()
    running = asyncio.create_task(test.all_of(generation(stopping=Stopping(time_limit_seconds=10))))
    await test.tokenizers.encoding.wait()
    advance()
    test.tokenizers.may_encode.set()
    await running
    (row,) = test.worker.rows
    assert row.time_limit_seconds == pytest.approx(3)


async def close_early(events: AsyncGenerator[Event, None], test: Bench) -> None:
    await anext(events)
    await events.aclose()


async def fail_in_the_middle(events: AsyncGenerator[Event, None], test: Bench) -> None:
    test.worker.script.append(RuntimeError())
    with pytest.raises(RuntimeError):
        async for _ in events:
            pass


@pytest.mark.parametrize("end", [close_early, fail_in_the_middle])
async def test_the_workers_call_and_the_place_end_with_the_request(end: Callable[..., Any]) -> None:
    test = bench([RowTokens(0, ids_of(" jumps"))])
    await end(test.run(generation()), test)
    assert not test.worker.is_asked
    assert test.admission.inflight == 0


async def test_a_request_is_in_flight_until_its_caller_has_read_it() -> None:
    """Otherwise callers that never read would hold any number of whole texts here."""
    test = bench([RowTokens(0, ids_of(" jumps"))], [finished(0)])
    events = test.run(generation())
    await anext(events)
    await test.worker.all_said.wait()  # read ahead, as for any slow reader
    assert test.admission.inflight == 1
    assert test.admission._lanes["tiny"].working == Work(), "what it had of the workers is others' to have"
    assert [type(event) async for event in events] == [OutputDelta, OutputFinished]
    assert test.admission.inflight == 0
