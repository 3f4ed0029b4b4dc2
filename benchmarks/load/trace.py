"""What one request's caller heard and when."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Trace:
    """One request. Times are seconds of one monotonic clock, the caller's."""

    prompt_tokens: int
    sent_at: float = field(default_factory=time.perf_counter)
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (when, how many tokens came together)
    ended_at: float | None = None
    tokens: int = 0
    # What the engine itself says it took from taking the request in to its first token; None: it does not say.
    engine_first_token_seconds: float | None = None

    def hear(self, tokens: int) -> None:
        """Note that `tokens` tokens arrived together, now."""
        self.arrivals.append((time.perf_counter(), tokens))
        self.tokens += tokens

    def end(self) -> None:
        """Note that the request is over, now."""
        self.ended_at = time.perf_counter()

    @property
    def first_token_seconds(self) -> float:
        """From sending to the first token. Precondition: there was one."""
        return self.arrivals[0][0] - self.sent_at

    @property
    def gaps(self) -> list[float]:
        """Seconds between one arrival and the next: what a reader of the stream feels."""
        times = [when for when, _ in self.arrivals]
        return [later - earlier for earlier, later in itertools.pairwise(times)]
