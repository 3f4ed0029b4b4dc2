"""How long rows wait from one token to their next: what a reader of the text feels."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40)


class TokenGaps:
    """A histogram of the generation thread's, which counts every token of every row: plain integers, no lock.

    Others may read it. What they see of a step that is being counted may lack some of its tokens.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self._sum_seconds = 0.0

    @property
    def sum_seconds(self) -> float:
        """All of them together."""
        return self._sum_seconds

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self._sum_seconds += seconds

    def cumulative(self) -> list[int]:
        """How many were at most as long as each of the bounds; the last number is of all."""
        return list(accumulate(self._counts))
