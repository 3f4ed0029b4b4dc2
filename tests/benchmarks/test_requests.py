"""The workload is the same in every run, and exactly as long as it says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load.requests import Lengths, PromptWords, poisson_arrivals

MIXED = Lengths(prompt=(2, 40), output=(1, 16))
WORDS = PromptWords({" river": 7, " stone": 8, " house": 9})


def test_the_ids_of_a_prompt_are_those_of_its_words():
    for request in WORDS.requests(20, MIXED, variant=0):
        assert request.ids == tuple({"river": 7, "stone": 8, "house": 9}[word] for word in request.text.split())


def test_lengths_stay_in_their_ranges_and_use_them():
    requests = WORDS.requests(500, MIXED, variant=0)
    assert {len(request.ids) for request in requests} == set(range(2, 41))
    assert {request.max_new_tokens for request in requests} == set(range(1, 17))


def test_the_same_workload_comes_again():
    assert WORDS.requests(10, MIXED, variant=1) == WORDS.requests(10, MIXED, variant=1)


def test_another_variant_has_the_same_lengths_and_other_words():
    one, other = WORDS.requests(10, MIXED, variant=1), WORDS.requests(10, MIXED, variant=2)
    assert [(len(r.ids), r.max_new_tokens) for r in one] == [(len(r.ids), r.max_new_tokens) for r in other]
    assert [r.ids for r in one] != [r.ids for r in other]


@pytest.mark.parametrize(
    ("count", "lengths", "variant"), [(10, MIXED, -1), (11, MIXED, 1), (10, Lengths.exactly(prompt=40, output=1), 1)]
)
def test_nothing_that_is_asked_later_begins_like_what_was_asked_before(count, lengths, variant):
    before = WORDS.requests(10, MIXED, variant=1)
    later = WORDS.requests(count, lengths, variant=variant)
    assert not {r.ids[:20] for r in before if len(r.ids) >= 20} & {r.ids[:20] for r in later}


@settings(max_examples=30)
@given(st.integers(1, 50), st.floats(0.1, 100), st.integers(0, 1000))
def test_arrivals_come_in_order(count, per_second, seed):
    arrivals = poisson_arrivals(count, per_second, seed)
    assert len(arrivals) == count
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0


def test_arrivals_come_at_their_rate():
    arrivals = poisson_arrivals(10_000, 5.0, seed=0)
    assert 4.8 < len(arrivals) / arrivals[-1] < 5.2
