"""Until when a request's caller waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock, or none."""

    at: float | None = None
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """`seconds` from now; None: no deadline."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None: no deadline."""
        return None if self.at is None else max(0.0, self.at - self.clock())


@dataclass(frozen=True, slots=True)
class DeadlineLimits:
    """What holds for every call, in seconds: nothing is worked on for ever."""

    default: float  # where the caller gives none
    longest: float

    def deadline(self, asked_for: float | None) -> Deadline:
        """The deadline of a call whose caller waits for so many seconds from now; None: the caller does not say."""
        return Deadline.after(min(self.longest, self.default if asked_for is None else asked_for))
