"""Who fails again and again is left alone for a while; every mark expires."""

from gateway.fleet.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker
from gateway.fleet.retry_budget import RESERVE, SHARE, RetryBudget
from tests.gateway.fleet.test_worker_load import Clock


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        assert not breaker.is_open
        breaker.fail()
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before():
    breaker = Breaker(Clock())
    for _ in range(5):
        for _ in range(FAILURES - 1):
            breaker.fail()
        breaker.succeed()
    assert not breaker.is_open
    assert opened(Clock()).is_open


def test_half_open_lets_one_request_pass_until_it_succeeds():
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE_SECONDS
    assert not breaker.is_open
    breaker.enter()
    assert breaker.is_open, "one is enough to see"
    breaker.succeed()
    assert not breaker.is_open


def test_its_states_have_names():
    clock = Clock()
    assert Breaker(clock).state == "closed"
    breaker = opened(clock)
    assert breaker.state == "open"
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.state == "half open"
    breaker.succeed()
    assert breaker.state == "closed"


def test_it_has_opened_until_a_request_succeeds():
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.has_opened, "half open"
    breaker.enter()
    breaker.succeed()
    assert not breaker.has_opened


def test_a_trial_that_nobody_reports_on_is_forgotten():
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE_SECONDS
    breaker.enter()
    clock.now += FIRST_PAUSE_SECONDS
    assert not breaker.is_open


def test_each_failed_trial_doubles_the_pause_up_to_a_bound():
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(8):
        start = clock.now
        while breaker.is_open:
            clock.now += 0.5
        pauses.append(clock.now - start)
        breaker.enter()
        breaker.fail()
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_those_that_fail_together_count_as_one_reason_to_pause():
    clock = Clock()
    breaker = opened(clock)
    for _ in range(50):
        breaker.fail()
    clock.now += FIRST_PAUSE_SECONDS
    assert not breaker.is_open


def test_retries_are_a_share_of_the_requests_beside_a_reserve():
    budget = RetryBudget()
    spent = 0
    for _ in range(10_000):
        budget.earn()
        spent += budget.spend()
    assert abs(spent - (RESERVE + SHARE * 10_000)) <= 1
