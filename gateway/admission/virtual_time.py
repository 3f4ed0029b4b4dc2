"""How far service has come, counted in work instead of seconds, and when it came there.

Source: Goyal, Vin and Cheng, Start-time Fair Queueing, 1996. Virtual time is the start tag of what was started last.
"""

from __future__ import annotations

from bisect import bisect_left

_POINTS = 256


class VirtualTime:
    """Owned by one fair queue. Remembers when values were passed, to `resolution_seconds`, the last 256 of them."""

    def __init__(self, resolution_seconds: float) -> None:
        self.value = 0.0
        self._resolution = resolution_seconds
        self._values = [0.0]
        self._moments = [float("-inf")]

    def advance(self, value: float, now: float) -> None:
        """Come to `value`, unless it is already behind."""
        if value <= self.value:
            return
        self.value = value
        if now - self._moments[-1] < self._resolution:
            self._values[-1] = value
            return
        self._values.append(value)
        self._moments.append(now)
        del self._values[:-_POINTS], self._moments[:-_POINTS]

    def reached(self, value: float) -> float | None:
        """When it came to `value`; None: it has not yet."""
        return None if value > self.value else self._moments[bisect_left(self._values, value)]
