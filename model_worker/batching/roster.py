"""The rows of the worker, those that run and those that wait, each list in order of arrival."""

from __future__ import annotations

import math
from bisect import insort
from operator import attrgetter

from model_worker.batching.prefix_index import PrefixIndex
from model_worker.batching.row import Row
from model_worker.batching.token_stream import TokenStream

_arrival = attrgetter("arrival")


class Roster:
    """All live rows. Owned by the generation thread.

    A preempted row goes back to where its arrival puts it: before everything younger, behind an older row that waits.
    """

    def __init__(self) -> None:
        self.running: list[Row] = []
        self.waiting: list[Row] = []
        self._waiting_prompt_tokens = 0  # sum over the waiting rows, which may be many
        self._by_stream: dict[TokenStream, dict[int, Row]] = {}
        self._prompts: PrefixIndex[Row] = PrefixIndex()  # of all live rows
        self._next_deadline = math.inf  # no row's time is up before; may be early, never late

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def queued_prompt_tokens(self) -> int:
        """Prompt tokens that still have to be computed; waiting rows do not count those they will copy."""
        return self._waiting_prompt_tokens + sum(row.prompt_left for row in self.running)

    @property
    def streams(self) -> list[TokenStream]:
        """The streams that have live rows."""
        return list(self._by_stream)

    def rows_of(self, stream: TokenStream) -> list[Row]:
        """The live rows of a request; none for a stream that is not known."""
        return list(self._by_stream.get(stream, {}).values())

    def find(self, stream: TokenStream, index: int) -> Row | None:
        """One live row."""
        return self._by_stream.get(stream, {}).get(index)

    def arrive(self, row: Row, copyable: int) -> None:
        """Take a new row in; it waits. It could copy so many tokens now, or what an older row will have computed."""
        self._by_stream.setdefault(row.stream, {})[row.index] = row
        self._next_deadline = min(self._next_deadline, row.deadline)
        sharer = self._prompts.longest(row.arrival_key) if row.reuses else None
        self._prompts.add(row.arrival_key, row)
        self.enqueue(row, copyable if sharer is None else max(copyable, sharer[0]))

    def enqueue(self, row: Row, copyable: int) -> None:
        """Let a live row wait."""
        row.running = row.lends = False
        row.queued_prompt_tokens = max(min(1, row.prompt_left), row.prompt_left - copyable)
        self._waiting_prompt_tokens += row.queued_prompt_tokens
        insort(self.waiting, row, key=_arrival)

    def admit(self, row: Row) -> None:
        """Let a waiting row run."""
        self._leave_queue(row)
        row.running = True
        insort(self.running, row, key=_arrival)

    def depart(self, row: Row) -> None:
        """Forget a row that ended."""
        if row.running:
            self.running.remove(row)
            row.running = False
        else:
            self._leave_queue(row)
        self._prompts.remove(row.arrival_key, row)
        siblings = self._by_stream[row.stream]
        del siblings[row.index]
        if not siblings:
            del self._by_stream[row.stream]

    def expired(self, now: float) -> list[Row]:
        """The rows whose time is up. Costs one comparison until the first one is due."""
        if now < self._next_deadline:
            return []
        rows = [*self.running, *self.waiting]
        self._next_deadline = min((row.deadline for row in rows if row.deadline > now), default=math.inf)
        return [row for row in rows if row.deadline <= now]

    def _leave_queue(self, row: Row) -> None:
        self.waiting.remove(row)
        self._waiting_prompt_tokens -= row.queued_prompt_tokens
