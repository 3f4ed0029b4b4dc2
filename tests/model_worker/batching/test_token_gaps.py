"""The histogram of times between tokens: its bounds are those of Prometheus, inclusive above."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.token_gaps import BOUNDS_SECONDS, TokenGaps


def test_bounds_ascend():
    assert list(BOUNDS_SECONDS) == sorted(set(BOUNDS_SECONDS))


@given(st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS_SECONDS)))
def test_each_bound_counts_what_is_at_most_as_long(seconds: list[float]):
    gaps = TokenGaps()
    for one in seconds:
        gaps.add(one)
    assert gaps.cumulative() == [*(sum(one <= bound for one in seconds) for bound in BOUNDS_SECONDS), len(seconds)]
    assert gaps.sum_seconds == sum(seconds)
