"""Whose turn it is, as rules; what comes of it over time is simulated in test_fairness.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.fair_queue import MAX_IDLE_TENANTS, FairQueue
from gateway.admission.ticket import Ticket
from gateway.admission.virtual_time import VirtualTime
from gateway.admission.work import Work

AGEING = 10.0


def queue(**given_: Any) -> FairQueue:
    return FairQueue(**({"ageing_seconds": AGEING, "weights": {}, "tenant_max_inflight": None} | given_))


def ticket(tenant: str = "", tokens: int = 10, priority: int = 0) -> Ticket:
    return Ticket("tiny", tenant, priority, Work(1, tokens))


def added(waiting: FairQueue, *tickets: Ticket, now: float = 0.0) -> None:
    for one in tickets:
        waiting.add(one, now)


def order(waiting: FairQueue, now: float = 0.0) -> list[Ticket]:
    """Start all, one after the other, in no time."""
    started = []
    while one := waiting.next(now):
        waiting.start(one, now)
        started.append(one)
    return started


def test_equals_go_in_the_order_of_their_arrival():
    waiting, tickets = queue(), [ticket() for _ in range(5)]
    added(waiting, *tickets)
    assert order(waiting) == tickets


def test_a_higher_class_goes_first():
    waiting, low, high = queue(), ticket(priority=-1), ticket(priority=1)
    added(waiting, low, high)
    assert order(waiting) == [high, low]


def test_who_waits_gains_a_class_every_so_many_seconds():
    waiting, low = queue(), ticket()
    added(waiting, low)
    high = [ticket(priority=2) for _ in range(3)]
    added(waiting, high[0], now=2 * AGEING - 0.1)
    assert waiting.next(2 * AGEING - 0.1) is high[0]
    added(waiting, *high[1:], now=2 * AGEING)
    assert waiting.next(2 * AGEING) is low


def test_tenants_take_turns_by_work_however_many_requests_one_has():
    waiting = queue()
    flood = [ticket("flood") for _ in range(50)]
    added(waiting, *flood)
    small = [ticket("small", tokens=5) for _ in range(4)]
    added(waiting, *small)
    assert [one.tenant for one in order(waiting)[:6]].count("small") == 4, "two for each of the other"


def test_a_weight_is_a_share():
    waiting = queue(weights={"double": 2.0})
    for name in ("double", "single"):
        added(waiting, *(ticket(name) for _ in range(30)))
    assert [one.tenant for one in order(waiting)[:30]].count("double") == pytest.approx(20, abs=1)


def test_who_asked_for_nothing_meanwhile_is_owed_nothing_for_it():
    waiting = queue()
    added(waiting, *(ticket("busy") for _ in range(20)))
    order(waiting)
    for name in ("busy", "late"):
        added(waiting, *(ticket(name) for _ in range(10)))
    assert [one.tenant for one in order(waiting)[:10]].count("busy") >= 4


def test_a_tenant_at_its_limit_holds_nobody_up_and_is_not_owed_what_it_may_not_have():
    waiting = queue(tenant_max_inflight=1)
    first, second = ticket("limited"), ticket("limited")
    added(waiting, first, second)
    assert order(waiting) == [first]
    for _ in range(10):
        added(waiting, other := ticket("other"))
        assert order(waiting) == [other]
        waiting.leave(other)
    waiting.leave(first)
    assert waiting.tenant("limited").start == 90, "where the other's last one began"
    assert order(waiting) == [second]


def test_the_depth_of_a_flood_does_not_age():
    waiting = queue()
    flood = [ticket("flood") for _ in range(100)]
    added(waiting, *flood)
    for number in range(20):  # one a second
        waiting.start(waiting.next(float(number)), float(number))
    newcomer = ticket("other")
    added(waiting, newcomer, now=20.0)
    assert newcomer in order(waiting, now=20.0)[:2]


def test_what_never_started_is_not_charged():
    waiting = queue()
    gave_up = [ticket("a", tokens=1000) for _ in range(5)]
    added(waiting, *gave_up)
    for one in gave_up:
        waiting.leave(one)
    added(waiting, ticket("b", tokens=1), ticket("a", tokens=1))
    assert waiting.tenant("a").start == 0


def test_a_correction_is_charged():
    waiting, one = queue(), ticket("a")
    added(waiting, one)
    waiting.start(one, 0.0)
    waiting.correct(one, Work(1, 500))
    assert waiting.tenant("a").start == 500


def test_who_gives_way_is_the_newest_of_the_lowest_class_of_the_longest_queue():
    waiting = queue()
    low, lower, other = ticket("a"), ticket("a"), ticket("b")
    added(waiting, ticket("a", priority=1), low, lower, other)
    assert waiting.last(other, 0.0) is lower
    added(waiting, much := ticket("b", tokens=1000))
    assert waiting.last(lower, 0.0) is much


def test_a_bounded_number_of_tenants_is_remembered():
    waiting = queue()
    for number in range(3 * MAX_IDLE_TENANTS):
        one = ticket(str(number), tokens=number + 1)
        waiting.add(one, 0.0)
        waiting.start(one, 0.0)
        waiting.leave(one)
        assert waiting.tenants <= MAX_IDLE_TENANTS


def test_virtual_time_remembers_when_it_came_where():
    virtual = VirtualTime(resolution_seconds=1.0)
    for second in range(1, 20):
        virtual.advance(second * 10.0, float(second))
    assert [virtual.reached(value) for value in (50.0, 51.0, 190.0, 191.0)] == [5.0, 6.0, 19.0, None]
    virtual.advance(195.0, 19.5)
    assert virtual.reached(195.0) == 19.0, "to its resolution"
    virtual.advance(100.0, 30.0)
    assert virtual.value == 195.0


def test_virtual_time_forgets_what_is_long_past():
    virtual = VirtualTime(resolution_seconds=1.0)
    for second in range(1, 10_000):
        virtual.advance(float(second), float(second))
    assert virtual.reached(1.0) is not None
    assert len(virtual._values) == len(virtual._moments) <= 256


ARRIVALS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 1000), st.integers(-10, 10), st.floats(0, 30)), max_size=40
)


@settings(deadline=None, max_examples=50)
@given(ARRIVALS, st.data())
def test_whoever_leaves_when_nothing_is_left_at_the_end(arrivals: list[Any], data: st.DataObject):
    waiting, here, now = queue(), [], 0.0
    for tenant, tokens, priority, seconds in arrivals:
        now += seconds
        here.append(ticket(tenant, tokens, priority))
        waiting.add(here[-1], now)
        if data.draw(st.booleans()) and (one := waiting.next(now)):
            waiting.start(one, now)
        if data.draw(st.booleans()):
            waiting.leave(here.pop(data.draw(st.integers(0, len(here) - 1))))
        assert waiting.queued == sum(not one.is_started for one in here)
        assert waiting.queued_tokens == sum(one.work.tokens for one in here if not one.is_started)
    for one in here:
        waiting.leave(one)
    assert (waiting.queued, waiting.queued_tokens, waiting.waiting_tenants) == (0, 0, 0)
    assert waiting.next(now) is None
