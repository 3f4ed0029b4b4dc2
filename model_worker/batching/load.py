"""How busy the worker is: an immutable snapshot per step, and the rate it reports."""

from __future__ import annotations

import math
from typing import NamedTuple


class LoadSnapshot(NamedTuple):
    """The worker at one moment between two steps. A tuple, because one is made in every step."""

    running: int = 0  # rows
    waiting: int = 0  # rows
    queued_prompt_tokens: int = 0  # of all rows, still to be computed; without those that waiting rows will copy
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    tokens_per_second: float = 0.0  # drawn, all rows together, smoothed; 0 when idle
    step: int = 0  # steps completed since the start
    step_started_at: float | None = None  # the current step or the last one, by the worker's clock; None before any
    step_tokens: int = 0  # computed in all steps
    preempted: int = 0  # rows, so often


class SmoothedRate:
    """Events per second, exponentially weighted with a time constant of one second."""

    def __init__(self) -> None:
        self._per_second = 0.0
        self._pending = 0  # counted while the clock stood still
        self._since: float | None = None

    @property
    def per_second(self) -> float:
        """The rate at the last `add`."""
        return self._per_second

    def restart(self, now: float) -> None:
        """Forget the past: an idle time is not a slow one."""
        self._per_second, self._pending, self._since = 0.0, 0, now

    def add(self, count: int, now: float) -> None:
        """Count `count` events that happened up to `now`, in seconds of any monotonic clock."""
        self._pending += count
        if self._since is None or now <= self._since:
            return
        elapsed = now - self._since
        current = self._pending / elapsed
        weight = 1.0 if self._per_second == 0.0 else 1.0 - math.exp(-elapsed)
        self._per_second += (current - self._per_second) * weight
        self._pending, self._since = 0, now
