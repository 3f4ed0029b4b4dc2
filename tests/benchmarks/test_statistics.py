"""Numbers worked out by hand."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load.statistics import decode_tokens_per_second, median_ratio, percentile, summarize
from benchmarks.load.trace import Trace


def trace(sent_at: float, arrivals: list[tuple[float, int]], engine: float | None = None) -> Trace:
    tokens = sum(count for _, count in arrivals)
    return Trace(4, sent_at, arrivals, arrivals[-1][0] + 0.5, tokens, engine)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.0), (75, 3.0), (100, 4.0), (90, 3.6)])
def test_a_percentile_lies_between_its_neighbours(percent, expected):
    assert percentile([4.0, 2.0, 1.0], percent) == pytest.approx(expected)


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_half_of_the_values_lie_below_the_median(values):
    assert percentile(values, 50) == pytest.approx(statistics.median(values))


def test_ratios_are_taken_in_pairs():
    # A neighbour halved the machine in the second run, for both: the ratio does not see it.
    assert median_ratio([30.0, 15.0, 33.0], [10.0, 5.0, 10.0]) == pytest.approx(3.0)


def test_what_was_measured_once_is_paired_with_the_first_run():
    assert median_ratio([30.0], [10.0, 5.0, 10.0]) == pytest.approx(3.0)


def test_a_summary_of_two_streams():
    summary = summarize([trace(0.0, [(1.0, 1), (1.5, 1)], engine=0.9), trace(0.5, [(2.5, 1), (3.0, 2)], engine=1.9)])
    assert (summary.requests, summary.tokens) == (2, 5)
    assert summary.seconds == pytest.approx(3.5)
    assert summary.tokens_per_second == pytest.approx(5 / 3.5)
    assert (summary.first_token_p50, summary.gap_p50) == pytest.approx((1.5, 0.5))
    assert summary.added_p50 == pytest.approx(0.1)


def test_an_engine_that_says_nothing_of_itself_adds_nothing():
    assert summarize([trace(0.0, [(1.0, 1), (2.0, 1)])]).added_p50 is None


def test_decoding_counts_only_while_every_row_decodes():
    early = trace(0.0, [(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1)])
    late = trace(0.0, [(2.0, 1), (3.0, 1), (4.0, 1), (5.0, 1)])
    # From 2 to 4: two tokens of each.
    assert decode_tokens_per_second([early, late]) == pytest.approx(2.0)
