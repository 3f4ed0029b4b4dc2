"""The life of one request.

Admit it; get its prompts as tokens from the tokenizer service; ask a worker for one row per output; turn the rows'
token ids into text, and stop a row whose text has come to a stop string, until every output has ended. The worker's RPC
is the request: leaving this generator, in whatever way, ends it and frees everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Protocol

from gateway.admission.gate import Admission
from gateway.admission.ticket import Ticket
from gateway.admission.work import estimated, planned
from gateway.deadline import Deadline
from gateway.generation import (
    EncodedPrompts,
    Event,
    FinishReason,
    Generation,
    OutputFinished,
    Row,
    RowEvent,
    Started,
    Timing,
    Usage,
)
from gateway.mailbox import merged
from gateway.models import ServedModel
from gateway.output import Output
from gateway.row_plan import RowPlan, effective_sampling, plan_rows
from gateway.text.artefact import TokenizerArtefact
from gateway.text.detokenizer import Detokenizer
from gateway.text.output_text import OutputText
from gateway.text.stop_strings import StopMatcher, StopStrings
from rpc.errors import ServiceError, deadline_exceeded, internal
from rpc.seeds import mix64


class Tokenizers(Protocol):
    """The tokenizer services, as the pipeline sees them."""

    async def encode(self, model: ServedModel, generation: Generation, deadline: Deadline) -> EncodedPrompts:
        """The prompts of a request as tokens. Errors: ServiceError."""
        ...

    async def artefact(self, model: ServedModel, vocabulary_fingerprint: str) -> TokenizerArtefact:
        """The tokenizer that made these ids, for detokenization. Errors: ServiceError."""
        ...


class RunningRows(Protocol):
    """The rows of one request at its worker."""

    def events(self) -> AsyncGenerator[Sequence[RowEvent], None]:
        """What happened to the rows, in order, in groups as they arrived. Errors: ServiceError."""
        ...

    async def stop_row(self, row: int) -> None:
        """End one row; the worker answers that it has finished."""
        ...


class Workers(Protocol):
    """The model workers, as the pipeline sees them."""

    def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AbstractAsyncContextManager[RunningRows]:
        """Send `rows` to a worker; leaving the context ends them there. Errors: ServiceError."""
        ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What every request passes through. It holds no request's state: that lives in `run`."""

    admission: Admission
    tokenizers: Tokenizers
    workers: Workers
    clock: Callable[[], float] = time.monotonic

    async def run(self, generation: Generation, model: ServedModel, deadline: Deadline) -> AsyncGenerator[Event, None]:
        """Generate, yielding what happens to the outputs. Errors: ServiceError, for the request as a whole."""
        arrived = self.clock()
        ticket = Ticket(model.base, generation.tenant, generation.priority, estimated(generation, model))
        async with AsyncExitStack() as request:
            try:
                async with asyncio.timeout(_shorter(generation.stopping.time_limit_seconds, deadline.remaining())):
                    await request.enter_async_context(self.admission.admitted(ticket))
                    prompts = await self.tokenizers.encode(model, generation, deadline)
                    artefact = await self.tokenizers.artefact(model, prompts.vocabulary_fingerprint)
            except TimeoutError:
                if deadline.remaining() == 0:
                    raise deadline_exceeded() from None
                for event in expired(generation, model, self.clock() - arrived):
                    yield event
                return
            special_stops = artefact.special_stops(generation.stopping.stop_strings)
            plan = plan_rows(generation, prompts, model, special_stops, elapsed_seconds=self.clock() - arrived)
            self.admission.correct(ticket, planned(plan))
            outputs = make_outputs(generation, plan, artefact, arrived)
            rows = self.workers.open(model, plan.rows, prompts.vocabulary_fingerprint, deadline)
            call = await request.enter_async_context(rows)
            # Read ahead here, inside: a request holds its place until its caller has read it, or unread text could pile
            # up without a bound.
            async with aclosing(merged(self._follow(call, outputs, plan.started(model), ticket))) as events:
                async for event in events:
                    yield event

    async def _follow(
        self, call: RunningRows, outputs: Sequence[Output], started: Started, ticket: Ticket
    ) -> AsyncGenerator[Event, None]:
        """Turn row events into the events of `outputs`, stopping the rows whose text has come to a stop string."""
        failure = internal()  # unless the worker says otherwise: it ended without a terminal for each row
        is_started = False
        try:
            async with aclosing(call.events()) as groups:
                async for row_events in groups:
                    if not is_started:
                        yield started
                        is_started = True
                    for event in handled(row_events, outputs, self.clock()):
                        yield event
                    for output in outputs:
                        if output.needs_stop():
                            await call.stop_row(output.index)
        except ServiceError as error:
            failure = error
        self.admission.finish(ticket)
        # An output that has come to its stop string is whole, whatever became of the worker since.
        for output in outputs:
            for event in output.finish_if_matched(self.clock()):
                yield event
        if not all(output.is_ended for output in outputs):
            raise failure


def _shorter(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)


def make_outputs(generation: Generation, plan: RowPlan, artefact: TokenizerArtefact, arrived: float) -> list[Output]:
    """One output per row, each with its own detokenizer and stop matcher."""
    stop_strings = StopStrings(generation.stopping.stop_strings)
    outputs = []
    for index, row in enumerate(plan.rows):
        tail = artefact.prompt_tail(row.ids)
        detokenizer = Detokenizer(artefact, tail, keep_special_tokens=generation.keep_special_tokens)
        matcher = StopMatcher(stop_strings, include_stop=generation.stopping.include_stop)
        text = OutputText(detokenizer, matcher, generation.stopping.min_new_tokens)
        outputs.append(Output(index, row, text, generation, plan.special_stops, arrived))
    return outputs


def handled(row_events: Sequence[RowEvent], outputs: Sequence[Output], now: float) -> Iterator[Event]:
    """What row events, which arrived `now`, mean to the caller."""
    for row_event in row_events:
        yield from outputs[row_event.row].handle(row_event, now)


def expired(generation: Generation, model: ServedModel, seconds: float) -> Iterator[Event]:
    """The events of a request whose time limit ran out before it got to a worker: it ends with what there is."""
    sampling, seed = effective_sampling(generation, model)
    yield Started(model.name, sampling, (), ())
    for index in range(generation.prompt_count * generation.n):
        yield OutputFinished(
            index=index,
            reason=FinishReason.TIME_LIMIT,
            stop_string=None,
            stop_token_id=None,
            seed=mix64(seed, index % generation.n),
            usage=Usage(),
            timing=Timing(total=seconds),
        )
