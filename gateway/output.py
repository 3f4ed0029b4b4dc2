"""One output on its way: what happens to its row at the worker, as what the caller is told."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from gateway.generation import (
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
    RowPromptLogprobs,
    RowTokens,
    Timing,
    Usage,
)
from gateway.text.output_text import OutputText, Step

NOTHING_FROM_WORKER = RowFinished(0, FinishReason.STOP_STRING, None, Usage(), Timing())


class Output:
    """Owns the text and the counts of one output, until its one terminal event.

    `matched` is the stop string that has ended the text, if any: the row is then stopped at the worker, and however
    it ends there, the output has finished normally.
    """

    def __init__(
        self,
        index: int,
        row: Row,
        text: OutputText,
        generation: Generation,
        special_stops: Mapping[int, str],
        arrived: float,
    ) -> None:
        self.index = index
        self.matched: str | None = None
        self.is_ended = False
        self._row = row
        self._text = text
        self._generation = generation
        self._special_stops = special_stops
        self._arrived = arrived
        self._first_token: float | None = None
        self._stop_sent = False
        self._completion_tokens = 0

    def handle(self, event: RowEvent, now: float) -> list[Event]:
        """What `event`, which arrived at `now` (seconds, the clock of `arrived`), means to the caller."""
        match event:
            case RowTokens(ids=ids, logprobs=logprobs):
                if self._first_token is None:
                    self._first_token = now
                return self._told(self._text.push(ids, logprobs))
            case RowPromptLogprobs(logprobs=logprobs):
                return [OutputDelta(self.index, "", array("i"), prompt_logprobs=self._text.spelled(logprobs))]
            case RowFinished():
                return self._finish(event, now)
            case RowFailed(error=error):
                if self.matched is not None:
                    return self.finish_if_matched(now)
                self.is_ended = True
                return [OutputFailed(self.index, error, self._usage(0))]

    def needs_stop(self) -> bool:
        """Whether the row has to be stopped at the worker now; true once."""
        needed = self.matched is not None and not self.is_ended and not self._stop_sent
        self._stop_sent |= needed
        return needed

    def finish_if_matched(self, now: float) -> list[Event]:
        """The end of an output whose stop string has matched, without the worker's word on it."""
        return self._finish(NOTHING_FROM_WORKER, now) if self.matched is not None and not self.is_ended else []

    def _told(self, step: Step) -> list[Event]:
        """Count and pass on what a step has settled."""
        self._completion_tokens += len(step.token_ids)
        self.matched = self.matched or step.stop_string
        token_ids = array("i", step.token_ids if self._generation.token_ids else ())
        is_new = step.text or token_ids or step.logprobs
        return [OutputDelta(self.index, step.text, token_ids, step.logprobs)] if is_new else []

    def _finish(self, finished: RowFinished, now: float) -> list[Event]:
        events = self._told(self._text.finish())
        reason, stop_token_id = finished.reason, finished.stop_token_id
        if self.matched is None and stop_token_id is not None and stop_token_id in self._special_stops:
            self.matched = self._special_stops[stop_token_id]
            if self._generation.stopping.include_stop:
                events.append(OutputDelta(self.index, self.matched, array("i")))
        if self.matched is not None:
            reason, stop_token_id = FinishReason.STOP_STRING, None
        self.is_ended = True
        seed = self._row.sampling.seed
        assert seed is not None, "every row has its seed"
        terminal = OutputFinished(
            index=self.index,
            reason=reason,
            stop_string=self.matched,
            stop_token_id=stop_token_id,
            seed=seed,
            usage=self._usage(finished.usage.cached_prompt_tokens),
            timing=self._timing(finished.timing, now),
        )
        return [*events, terminal]

    def _usage(self, cached_prompt_tokens: int) -> Usage:
        return Usage(len(self._row.ids), cached_prompt_tokens, self._completion_tokens)

    def _timing(self, worker: Timing, now: float) -> Timing:
        """Queue, prefill and decode as the worker measured them; the rest from the request's arrival here."""
        first_token = now if self._first_token is None else self._first_token
        return Timing(worker.queue, worker.prefill, first_token - self._arrived, worker.decode, now - self._arrived)
