"""What is counted as a worker's work, and when a worker counts as lost."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fleet.worker_load import SILENT_SECONDS, STUCK_SECONDS, Report, Sent, Work, WorkerLoad


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_sent_counts_until_two_reports_have_come_and_what_is_reported_always():
    load = WorkerLoad(Clock())
    load.send(Work(2, 500))
    assert load.work == Work(2, 500)
    load.hear(Report(step=1))
    assert load.work == Work(2, 500), "this report may have been made before the request arrived"
    load.hear(Report(running=2, queued_prompt_tokens=400, step=2))
    assert load.work == Work(2, 400)


def test_what_ends_before_it_was_reported_counts_no_more():
    load = WorkerLoad(Clock())
    first, second = load.send(Work(1, 10)), load.send(Work(3, 30))
    load.end(first)
    assert load.work == Work(3, 30)
    load.end(second)
    assert load.work == Work()


@settings(deadline=None)
@given(st.lists(st.one_of(st.just("report"), st.integers(0, 9)), max_size=60))
def test_whatever_is_given_back_when_nothing_is_left_over(moves):
    load = WorkerLoad(Clock())
    live: dict[int, Sent] = {}
    for number, move in enumerate(moves):
        if move == "report":
            load.hear(Report(step=number))
        elif move in live:
            load.end(live.pop(move))
        else:
            live[move] = load.send(Work(1, move))
        assert load.work.rows >= 0
        assert load.work.prompt_tokens >= 0
    for sent in live.values():
        load.end(sent)
    assert load.work == Work()


def test_a_worker_without_reports_is_silent_after_three_seconds():
    clock = Clock()
    load = WorkerLoad(clock)
    clock.now += SILENT_SECONDS
    assert not load.is_silent()
    clock.now += 0.1
    assert load.is_silent()
    load.hear(Report())
    assert not load.is_silent()


def test_time_in_which_nobody_listened_makes_a_worker_neither_silent_nor_stuck():
    clock = Clock()
    load = WorkerLoad(clock)
    load.hear(Report(running=1, step=5))
    clock.now += 60
    load.excuse(60 - SILENT_SECONDS)
    assert not load.is_silent()
    assert not load.is_stuck()
    clock.now += 0.1
    assert load.is_silent()


def test_a_report_from_after_the_excused_time_is_as_new_as_it_is():
    clock = Clock()
    load = WorkerLoad(clock)
    clock.now += 60
    load.hear(Report())
    load.excuse(60)
    clock.now += SILENT_SECONDS + 0.1
    assert load.is_silent()


def test_a_worker_with_rows_whose_steps_do_not_end_is_stuck():
    clock = Clock()
    load = WorkerLoad(clock)
    report = Report(running=1, step=5)
    load.hear(report)
    clock.now += STUCK_SECONDS
    load.hear(report)
    assert not load.is_stuck()
    clock.now += 0.1
    load.hear(report)
    assert load.is_stuck()
    load.hear(replace(report, step=6))
    assert not load.is_stuck()


def test_an_idle_worker_is_never_stuck():
    clock = Clock()
    load = WorkerLoad(clock)
    for _ in range(100):
        clock.now += 1
        load.hear(Report(step=5))
    load.hear(Report(running=1, step=5))
    assert not load.is_stuck()


def test_where_steps_usually_take_long_more_patience_is_had():
    clock = Clock()
    load = WorkerLoad(clock)
    for step in range(10):
        load.hear(Report(running=1, step=step))
        clock.now += 2
    clock.now += STUCK_SECONDS
    assert not load.is_stuck()
    clock.now += 30
    assert load.is_stuck()
