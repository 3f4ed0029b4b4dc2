"""Who takes a request."""

import random
from collections import Counter

from gateway.fleet.choice import ROW_TOKENS, Candidate, choose, cost
from gateway.fleet.worker_load import Work

ONE = Work(1, 100)


def candidate(rows: int = 0, prompt_tokens: int = 0, **given: int) -> Candidate:
    return Candidate(Work(rows, prompt_tokens), **({"max_rows": 8, "free_kv_tokens": 10_000} | given))


def taken(*candidates: Candidate, work: Work = ONE, times: int = 300) -> Counter[int]:
    draw = random.Random(1)
    return Counter(choose(candidates, work, draw) for _ in range(times))


def test_the_least_loaded_of_very_different_ones_takes_it():
    assert taken(candidate(6), candidate(1), candidate(8)) == {1: 300}
    assert taken(candidate(1, 5000), candidate(2)) == {1: 300}


def test_equals_share_it():
    counts = taken(candidate(), candidate(), candidate())
    assert min(counts.values()) > 60


def test_of_about_equal_ones_the_better_is_likelier_but_not_certain():
    counts = taken(candidate(1), candidate(1), candidate(1, ROW_TOKENS // 2))
    assert counts[0] > 0
    assert counts[1] > 0
    assert counts[2] < counts[0]


def test_a_worker_without_room_is_taken_only_if_the_others_have_much_more_to_do():
    assert taken(candidate(2, max_rows=2), candidate(4)) == {1: 300}
    assert taken(candidate(0, free_kv_tokens=50), candidate(0)) == {1: 300}
    assert taken(candidate(2, max_rows=2), candidate(8, 9000, max_rows=100)) == {0: 300}


def test_what_it_has_computed_before_is_worth_going_back_for():
    work = Work(1, 3000)
    assert taken(candidate(3, cached_tokens=2500), candidate(), work=work) == {0: 300}
    assert cost(candidate(), work) - cost(candidate(cached_tokens=1000), work) == 1000
