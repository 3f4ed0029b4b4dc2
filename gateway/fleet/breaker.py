"""A circuit breaker: who has failed again and again is left alone for a while, then tried with one request."""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 3  # in a row, until it opens
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Breaker:
    """Of one service. Closed; open after FAILURES in a row; then half open: one request at a time, until one succeeds.

    Every mark expires: a pause ends by itself, and a trial that nobody reports on counts for one pause only. Of those
    that fail together, as when a process dies, all but the first few tell nothing new: the pause stays the first one.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._closed_until = 0.0  # nothing passes before
        self._is_tried = False  # a request has passed since it opened

    @property
    def is_open(self) -> bool:
        """Whether nothing may pass now."""
        return self.has_opened and self._clock() < self._closed_until

    @property
    def has_opened(self) -> bool:
        """Whether it is open or half open: no request has succeeded since it opened."""
        return self._failures >= FAILURES

    def enter(self) -> None:
        """Note that a request passes; half open, no other one does for as long as the last pause was."""
        if self.has_opened:
            self._is_tried = True
            self._closed_until = self._clock() + self._pause

    def succeed(self) -> None:
        """Note that a request was answered."""
        self._failures = 0
        self._is_tried = False
        self._pause = FIRST_PAUSE_SECONDS

    def fail(self) -> None:
        """Note that a request failed for a reason of the service's."""
        if self._is_tried:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        elif self.has_opened:
            return
        self._failures += 1
        self._is_tried = False
        if self.has_opened:
            self._closed_until = self._clock() + self._pause

    @property
    def state(self) -> str:
        """As people call it."""
        if not self.has_opened:
            return "closed"
        return "open" if self.is_open else "half open"
