"""What has been heard of a request's rows so far, and what another worker has to be asked for, should theirs be lost.

A row that is replayed begins with all it has: its prompt and the tokens that were generated, which count for penalties,
positions and max_new_tokens and are not sent again. As draws depend on seed and position only, it goes on as it would
have gone on.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Sequence

from gateway.generation import (
    Row,
    RowEvent,
    RowFinished,
    RowPromptLogprobs,
    RowTokens,
    Usage,
)
from gateway.row_plan import LEAST_TIME_LIMIT_SECONDS


class _Progress:
    """One row, over all attempts."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.generated = array("i")
        self.prompt_logprobs = 0  # heard of
        self.is_over = False  # it has ended, or is not wanted any more


class Replay:
    """Owned by one request."""

    def __init__(self, rows: Sequence[Row], clock: Callable[[], float]) -> None:
        self._rows = [_Progress(row) for row in rows]
        self._clock = clock
        self._began = clock()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to ask for."""
        return all(row.is_over for row in self._rows)

    @property
    def tokens(self) -> int:
        """Generated so far, all rows together."""
        return sum(len(row.generated) for row in self._rows)

    def forget(self, row: int) -> None:
        """Ask for no more of a row."""
        self._rows[row].is_over = True

    def attempt(self) -> Attempt:
        """Ask for what is left. Precondition: something is."""
        elapsed = self._clock() - self._began
        places = [place for place, row in enumerate(self._rows) if not row.is_over]
        return Attempt(self._rows, places, [_rest(self._rows[place], elapsed) for place in places])


class Attempt:
    """What one worker is asked for; its events are about `rows`, which have places of their own."""

    def __init__(self, progress: Sequence[_Progress], places: Sequence[int], rows: Sequence[Row]) -> None:
        self.rows = rows
        self._progress = progress
        self._places = places
        self._repeated = [progress[place].prompt_logprobs for place in places]  # that will come once more

    def place_of(self, row: int) -> int | None:
        """Where the request's `row` stands in this attempt; None: it was over before."""
        return self._places.index(row) if row in self._places else None

    def heard(self, events: Sequence[RowEvent]) -> list[RowEvent]:
        """Note `events` and return them as events of the request's rows, without what was heard before."""
        return [own for event in events if (own := self._own(event)) is not None]

    def _own(self, event: RowEvent) -> RowEvent | None:
        place = self._places[event.row]
        progress = self._progress[place]
        match event:
            case RowPromptLogprobs(logprobs=logprobs):
                new = logprobs[self._repeated[event.row] :]
                self._repeated[event.row] -= len(logprobs) - len(new)
                progress.prompt_logprobs += len(new)
                return RowPromptLogprobs(place, new) if new else None
            case RowTokens(ids=ids):
                progress.generated += ids
            case RowFinished(usage=usage):
                progress.is_over = True
                # A worker counts what it was sent as the prompt; the tokens of an earlier attempt are no prompt.
                prompt_tokens = len(progress.row.ids)
                cached = min(usage.cached_prompt_tokens, prompt_tokens)
                own = Usage(prompt_tokens, cached, len(progress.generated))
                return dataclasses.replace(event, row=place, usage=own)
            case _:
                progress.is_over = True
        return dataclasses.replace(event, row=place)


def _rest(progress: _Progress, elapsed_seconds: float) -> Row:
    row = progress.row
    time_limit = row.time_limit_seconds
    if time_limit is not None:
        time_limit = max(LEAST_TIME_LIMIT_SECONDS, time_limit - elapsed_seconds)
    return dataclasses.replace(
        row,
        ids=row.ids + progress.generated,
        generated_prefix=len(progress.generated),
        time_limit_seconds=time_limit,
        # All of them come before the first token.
        prompt_logprobs=None if progress.generated else row.prompt_logprobs,
    )
