"""The numbers that a list of traces comes down to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.trace import Trace


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of `values` lie, interpolated linearly between neighbours.

    Precondition: there are values, and 0 <= percent <= 100.
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of `ours` over `theirs`, taken in pairs: what was measured side by side saw the same neighbours.

    What was measured less often, in the first repetitions only, is paired with those.
    """
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=False))


@dataclass(frozen=True, slots=True)
class Summary:
    """One run of many requests. Times are seconds."""

    requests: int
    tokens: int  # generated
    messages: int  # that they came in
    seconds: float  # from the first request sent to the last one ended
    first_token_p50: float
    first_token_p99: float
    gap_p50: float
    gap_p99: float
    # Time to the first token that the engine did not spend itself, the median; None: the engine does not say.
    added_p50: float | None

    @property
    def tokens_per_second(self) -> float:
        """Of all requests together."""
        return self.tokens / self.seconds


def summarize(traces: Sequence[Trace]) -> Summary:
    """The numbers of one run. Precondition: every request ended and had a token, one of them several."""
    firsts = [trace.first_token_seconds for trace in traces]
    gaps = [gap for trace in traces for gap in trace.gaps]
    added = [
        trace.first_token_seconds - trace.engine_first_token_seconds
        for trace in traces
        if trace.engine_first_token_seconds is not None
    ]
    ends = [trace.ended_at for trace in traces if trace.ended_at is not None]
    return Summary(
        requests=len(traces),
        tokens=sum(trace.tokens for trace in traces),
        messages=sum(len(trace.arrivals) for trace in traces),
        seconds=max(ends) - min(trace.sent_at for trace in traces),
        first_token_p50=percentile(firsts, 50),
        first_token_p99=percentile(firsts, 99),
        gap_p50=percentile(gaps, 50),
        gap_p99=percentile(gaps, 99),
        added_p50=statistics.median(added) if added else None,
    )


def decode_tokens_per_second(traces: Sequence[Trace]) -> float:
    """Throughput while every one of `traces` was decoding: from the last first token to the first last one.

    Precondition: there is such a time, so the outputs are long enough for the prompts.
    """
    begin = max(trace.arrivals[0][0] for trace in traces)
    end = min(trace.arrivals[-1][0] for trace in traces)
    tokens = sum(count for trace in traces for when, count in trace.arrivals if begin < when <= end)
    return tokens / (end - begin)
