"""How fast work ends while more of it waits, from which follows how long what waits will take."""

from __future__ import annotations

from collections import deque

LEAST_SECONDS, MOST_SECONDS = 0.1, 60.0
UNKNOWN_SECONDS = 1.0  # nothing has ended yet that could tell
_MOMENTS = 64  # remembered; what ends together, as rows of one step do, is one moment:
_TOGETHER_SECONDS = 0.1
_LATELY_SECONDS = 60.0
_FEWEST = 8  # moments, however long ago


class CompletionRate:
    """Of one model. Counts only the time in which requests wait: otherwise there is less to do than could be done."""

    def __init__(self) -> None:
        self._waited = 0.0  # seconds in which something waited, before:
        self._waiting_since: float | None = None
        self._ends: deque[tuple[float, int]] = deque([(0.0, 0)])  # (seconds waited, tokens); the first is the beginning

    def watch(self, now: float, *, waits: bool) -> None:
        """Say whether something waits from now on."""
        self._waited = self._seconds(now)
        self._waiting_since = now if waits else None

    def end(self, tokens: int, now: float) -> None:
        """Note work that has ended."""
        if self._waiting_since is None:
            return
        moment = self._seconds(now)
        last, together = self._ends[-1]
        if len(self._ends) > 1 and moment - last < _TOGETHER_SECONDS:
            self._ends[-1] = last, together + tokens
        else:
            self._ends.append((moment, tokens))
        while len(self._ends) > _MOMENTS or (len(self._ends) > _FEWEST and moment - self._ends[0][0] > _LATELY_SECONDS):
            self._ends.popleft()

    def seconds_for(self, tokens: float, now: float) -> float:
        """How long `tokens` of work take at the rate of late, within bounds."""
        passed = self._seconds(now) - self._ends[0][0]
        ended = sum(tokens for _, tokens in self._ends) - self._ends[0][1]
        # Where nothing has ended for a while, it may well be as long again.
        seconds = passed * tokens / ended if ended else max(UNKNOWN_SECONDS, passed)
        return min(MOST_SECONDS, max(LEAST_SECONDS, seconds))

    def _seconds(self, now: float) -> float:
        return self._waited + (0.0 if self._waiting_since is None else now - self._waiting_since)
