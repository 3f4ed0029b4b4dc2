from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.scheduler import Admission, RunningRow, SchedulerLimits, WaitingRow, schedule
from tests.model_worker.batching.simulated_worker import SimulatedRow, SimulatedWorker

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=10, growth_tokens=8, look_ahead=2)


def decoding(known: int, capacity: int | None = None, most: int = 1000) -> RunningRow:
    return RunningRow(known, known - 1, known + 8 if capacity is None else capacity, most)


def prefilling(known: int, computed: int = 0) -> RunningRow:
    return RunningRow(known, computed, known + 8, 1000)


def waiting(known: int, *, shared: int = 0, most: int = 1000, overtaken: int = 0) -> WaitingRow:
    return WaitingRow(known, shared, most, overtaken)


def test_every_decoding_row_gets_its_token_before_any_prefill() -> None:
    plan = schedule([prefilling(30), decoding(5), prefilling(30), decoding(7)], [], 100, LIMITS)
    assert plan.chunks == [8, 1, 0, 1]


def test_prefill_gets_what_the_budget_leaves_oldest_first() -> None:
    plan = schedule([prefilling(30, 26), prefilling(30), prefilling(30)], [], 100, LIMITS)
    assert plan.chunks == [4, 6, 0]


def test_the_last_missing_token_of_a_prompt_counts_as_decoding() -> None:
    plan = schedule([prefilling(30), RunningRow(20, 19, 28, 1000)], [], 100, LIMITS)
    assert plan.chunks == [9, 1]


def test_a_row_is_admitted_with_its_prompt_and_one_step_of_growth() -> None:
    plan = schedule([], [waiting(6)], 14, LIMITS)
    assert plan.admitted == [Admission(0, capacity=14, chunk=6)]
    assert schedule([], [waiting(6)], 13, LIMITS).admitted == []


def test_a_row_never_asks_for_more_than_it_can_fill() -> None:
    assert schedule([], [waiting(6, most=7)], 7, LIMITS).admitted == [Admission(0, capacity=7, chunk=6)]
    assert schedule([decoding(6, capacity=5, most=7)], [], 2, LIMITS).capacities == [7]


def test_an_admitted_prompt_is_cut_to_the_budget_and_the_next_row_waits() -> None:
    plan = schedule([decoding(5)], [waiting(30), waiting(3)], 1000, LIMITS)
    assert plan.admitted == [Admission(0, capacity=38, chunk=9)]


def test_a_row_whose_prompt_is_copied_computes_only_the_rest() -> None:
    plan = schedule([], [waiting(30, shared=29), waiting(30, shared=29)], 1000, LIMITS)
    assert [admission.chunk for admission in plan.admitted] == [1, 1]


def test_no_more_rows_run_than_max_num_seqs() -> None:
    plan = schedule([decoding(5)] * 3, [waiting(1), waiting(1)], 1000, LIMITS)
    assert [admission.position for admission in plan.admitted] == [0]


def test_rows_behind_one_that_does_not_fit_may_overtake_it() -> None:
    plan = schedule([decoding(5)], [waiting(60), waiting(2), waiting(3)], 30, LIMITS)
    assert [admission.position for admission in plan.admitted] == [1, 2]


def test_a_row_that_was_overtaken_often_enough_keeps_everything_behind_it_waiting() -> None:
    assert schedule([decoding(5)], [waiting(60, overtaken=2), waiting(2)], 30, LIMITS).admitted == []
    plan = schedule([decoding(5)], [waiting(60, overtaken=1), waiting(2), waiting(2)], 30, LIMITS)
    assert [admission.position for admission in plan.admitted] == [1]


def test_a_row_that_is_out_of_room_grows_by_a_step() -> None:
    plan = schedule([decoding(9, capacity=8), decoding(5)], [], 8 + 1, LIMITS)
    assert plan.capacities == [17, 13]
    assert plan.preempted == 0


def test_the_youngest_row_gives_way_when_nothing_is_left_to_grow() -> None:
    plan = schedule([decoding(9, capacity=8), decoding(20), decoding(5, capacity=9)], [waiting(1)], 0, LIMITS)
    assert plan.preempted == 1
    assert plan.capacities == [17, 28]
    assert plan.chunks == [1, 1]
    assert plan.admitted == [], "nobody is admitted into room that had to be taken from another"


def test_as_many_of_the_youngest_give_way_as_needed() -> None:
    rows = [RunningRow(13, 5, 8, 1000), decoding(3, capacity=4), decoding(3, capacity=4)]
    assert [schedule(rows, [], free, LIMITS).preempted for free in (0, 1, 4, 5)] == [2, 1, 1, 0]


@pytest.mark.parametrize(
    ("rows", "free_tokens", "capacities"),
    [
        ([RunningRow(101, 100, 100, 500), RunningRow(90, 89, 100, 500)], 63, [163, 100]),
        ([RunningRow(100, 99, 164, 500), RunningRow(101, 100, 100, 500)], 63, [164, 163]),
        ([RunningRow(101, 100, 100, 500), RunningRow(101, 100, 100, 500)], 2, [101, 101]),
        ([RunningRow(101, 100, 100, 500), RunningRow(101, 100, 100, 500)], 9, [108, 101]),
        ([RunningRow(101, 100, 100, 500), RunningRow(101, 100, 100, 500)], 200, [165, 165]),
    ],
)
def test_nobody_gives_way_while_there_is_room_for_each_next_token(
    rows: list[RunningRow], free_tokens: int, capacities: list[int]
) -> None:
    plan = schedule(rows, [], free_tokens, SchedulerLimits())
    assert (plan.preempted, plan.capacities) == (0, capacities)


def test_the_youngest_row_itself_gives_way_rather_than_an_older_one() -> None:
    plan = schedule([decoding(20), decoding(9, capacity=8)], [], 0, LIMITS)
    assert plan.preempted == 1
    assert plan.capacities == [28]


def test_what_the_youngest_gave_up_goes_to_every_row_that_asked_before_any_gets_more() -> None:
    rows = [decoding(20), decoding(9, capacity=8), decoding(9, capacity=8), decoding(3, capacity=3)]
    plan = schedule(rows, [], 0, LIMITS)
    assert plan.preempted == 1
    assert plan.capacities == [28, 10, 9]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_num_seqs": 0},
        {"growth_tokens": 0},
        {"max_queue": -1},
        {"look_ahead": -1},
        {"max_num_seqs": 8, "max_num_batched_tokens": 7},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"at least|below"):
        SchedulerLimits(**limits)


ROWS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 41)), min_size=1, max_size=20)


@given(ROWS, st.integers(1, 5), st.integers(0, 20), st.integers(1, 30), st.integers(0, 3))
def test_every_row_comes_to_its_end_whatever_the_mix(
    rows: list[tuple[int, int]], seqs: int, more_budget: int, growth: int, look_ahead: int
) -> None:
    limits = SchedulerLimits(
        max_num_seqs=seqs, max_num_batched_tokens=seqs + more_budget, growth_tokens=growth, look_ahead=look_ahead
    )
    queue = [SimulatedRow(arrival, 0, known, known + new) for arrival, (known, new) in enumerate(rows)]
    SimulatedWorker(limits, 100).run(queue)


def test_running_rows_keep_room_to_grow_before_new_ones_are_let_in() -> None:
    rows = [decoding(5), decoding(5)]
    assert schedule(rows, [waiting(6)], 14 + 7, LIMITS).admitted == []
    assert len(schedule(rows, [waiting(6)], 14 + 8, LIMITS).admitted) == 1
