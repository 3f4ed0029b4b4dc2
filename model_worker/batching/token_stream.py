"""The way out of the generation thread: one `TokenStream` per request, with all its rows, to one asyncio reader.

    a row      OPEN ── push* ──> OPEN ── end ──> ENDED          push or end after ENDED: a mistake, asserted
    a stream   OPEN ── every row ENDED ──> DONE                 the reader's iteration ends
               OPEN ── fail ──> FAILED                          the reader gets what is unread, then RequestFailed
               any  ── cancel (by the reader) ──> CANCELLED     what is unread is dropped; pushes no longer matter

Why no lock: each field has one writer. The generation thread appends to a row's tokens and then, once, sets how it
ended; the reader keeps its own position and only looks. Appending to an array, slicing it and replacing a reference
are each one indivisible operation of the interpreter, and the reader looks at the ending *before* it slices: if it
sees an ending, it also sees every token before it. Tokens are never taken away, so none can be lost or seen twice.

Log-probabilities are large, so the reader takes them away: one end of a deque is the writer's, the other the reader's,
and appending and popping are indivisible too. A token's is appended *before* the token, a prompt's before the row's
first token; the reader looks at the tokens first and takes only what belongs to those it has seen, or is of the prompt.
So what it takes is there, and it never meets a token whose log-probability, or whose prompt's, is still to come.

What bounds it: a row holds at most the tokens its own limit allows, 4 bytes each, read or not; and unread
log-probabilities, of which a request has at most rpc.generation_params.MAX_LOGPROBS. Tokens that nobody has read yet
come as one event, so a slow reader gets fewer and larger events.
"""

from __future__ import annotations

import asyncio
import collections.abc
from array import array
from collections import deque
from dataclasses import dataclass, field

from model_worker.batching.refusals import RequestFailed
from model_worker.batching.row_events import PromptLogprobsEvent, RowEvent, TerminalEvent, TokensEvent
from model_worker.engine import TokenLogprob


@dataclass(slots=True)
class _StreamRow:
    token_limit: int
    # Written by the generation thread:
    tokens: array[int] = field(default_factory=lambda: array("i"))
    scored: int = 0  # log-probabilities of the prompt that were pushed
    ending: TerminalEvent | None = None
    # Appended to by the generation thread, popped from by the reader:
    logprobs: deque[TokenLogprob] = field(default_factory=deque)  # of unread tokens; empty unless asked for
    prompt_logprobs: deque[TokenLogprob] = field(default_factory=deque)
    # Written by the reader:
    read: int = 0
    done: bool = False
    stop_asked: bool = False


class TokenStream:
    """Row events of one request.

    `push`, `push_prompt`, `end` and `fail` belong to the generation thread, all else to the reader.
    """

    def __init__(self, token_limits: collections.abc.Iterable[int]) -> None:
        self._rows = [_StreamRow(limit) for limit in token_limits]
        self._failure: RequestFailed | None = None  # generation thread
        self._open_rows = list(range(len(self._rows)))  # reader: rows whose ending was not handed out yet
        self._waiter: asyncio.Future[None] | None = None  # reader
        self._on_wake: collections.abc.Callable[[], None] | None = None  # reader
        self._cancelled = False  # reader

    def push(self, row: int, token_id: int, logprob: TokenLogprob | None = None) -> None:
        """Add a token to an open row. The reader learns of it at the next `wake`.

        All tokens of a row come with their log-probability, or none does.
        """
        target = self._rows[row]
        assert target.ending is None, "a token after the row's end"
        assert self._failure is None, "a token after the request failed"
        assert len(target.tokens) < target.token_limit, "more tokens than the request allows"
        if logprob is not None:
            target.logprobs.append(logprob)  # before its token: see the top of the file
        target.tokens.append(token_id)

    def push_prompt(self, row: int, first: int, logprobs: collections.abc.Sequence[TokenLogprob]) -> None:
        """Add log-probabilities of an open row's prompt, the first of them number `first` (from 0) of the prompt's.

        Those that were pushed before are left out: a row that was preempted is computed a second time.
        """
        target = self._rows[row]
        assert target.ending is None, "a prompt's log-probability after the row's end"
        assert first <= target.scored, "a log-probability of the prompt is missing"
        new = logprobs[target.scored - first :]
        assert not (new and target.tokens), "a prompt's log-probability after a token"
        target.prompt_logprobs.extend(new)
        target.scored += len(new)

    def end(self, event: TerminalEvent) -> None:
        """End one row, once."""
        target = self._rows[event.row]
        assert target.ending is None, "a second end of the row"
        assert self._failure is None, "an end after the request failed"
        target.ending = event

    def fail(self, failure: RequestFailed) -> None:
        """End the request as a whole; rows that have ended keep their ending, and the first failure holds."""
        self._failure = self._failure or failure

    def wake(self) -> None:
        """Let a waiting reader look again. Called on the event loop; waking for nothing does no harm."""
        if self._on_wake is not None:
            self._on_wake()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def notify(self, on_wake: collections.abc.Callable[[], None]) -> None:
        """For a reader of many streams, who `take`s instead of iterating: have `on_wake` called to look again."""
        self._on_wake = on_wake

    def has_begun(self) -> bool:
        """Whether its reader has seen a token."""
        return any(row.read for row in self._rows)

    def ask_stop(self, row: int) -> bool:
        """Note that `row` is to be stopped; True the first time. Unknown rows: False."""
        if not 0 <= row < len(self._rows) or self._rows[row].stop_asked:
            return False
        self._rows[row].stop_asked = True
        return True

    def cancel(self) -> bool:
        """Give the request up; True the first time. A reader that waits gets RequestFailed."""
        first, self._cancelled = not self._cancelled, True
        self.wake()
        return first

    def __aiter__(self) -> TokenStream:
        """Iterate over batches of row events, for one reader."""
        return self

    async def __anext__(self) -> list[RowEvent]:
        """Everything that happened since the last call, at least one event; waits for it.

        Per row: tokens before the ending, one ending, nothing after it. Ends when every row has ended.

        Errors: RequestFailed (the request failed as a whole, or was cancelled).
        """
        assert self._waiter is None, "one reader at a time"
        while not (events := self.take()):
            if self.is_over:
                raise StopAsyncIteration
            await self._woken()
        return events

    @property
    def is_over(self) -> bool:
        """Whether the ending of every row was taken."""
        return not self._open_rows

    @property
    def has_failed(self) -> bool:
        """Whether the request failed, which `take` raises once it finds nothing else, without another `wake`."""
        return self._failure is not None

    def take(self) -> list[RowEvent]:
        """What happened since the last call, maybe nothing. Errors: RequestFailed, as of iterating."""
        if self._cancelled:
            raise RequestFailed("CANCELLED", "the request was cancelled")
        failure = self._failure  # before the rows: nothing is pushed after a failure, so no token is missed
        events = self._unread()
        if failure is not None and not events and self._open_rows:
            raise failure
        return events

    async def _woken(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _unread(self) -> list[RowEvent]:
        events: list[RowEvent] = []
        ended = False
        for index in self._open_rows:
            row = self._rows[index]
            ending = row.ending  # before the tokens: see the top of the file
            ids = row.tokens[row.read :]
            if row.prompt_logprobs:
                events.append(PromptLogprobsEvent(index, _take(row.prompt_logprobs, len(row.prompt_logprobs))))
            if ids:
                row.read += len(ids)
                events.append(TokensEvent(index, ids, _take(row.logprobs, len(ids)) if row.logprobs else ()))
            if ending is not None:
                row.done = ended = True
                events.append(ending)
        if ended:
            self._open_rows = [index for index in self._open_rows if not self._rows[index].done]
        return events


def _take(logprobs: deque[TokenLogprob], count: int) -> tuple[TokenLogprob, ...]:
    return tuple([logprobs.popleft() for _ in range(count)])
