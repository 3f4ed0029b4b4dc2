from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.lane import Lane, Refused
from gateway.admission.limits import Limits, Room, room
from gateway.admission.ticket import Ticket
from gateway.admission.work import Work
from gateway.models import Capacity

ENDLESS = room(Limits(), None)


def ticket(tenant: str = "", tokens: int = 10, priority: int = 0, rows: int = 1) -> Ticket:
    return Ticket("tiny", tenant, priority, Work(rows, tokens))


def arrived(lane: Lane, one: Ticket, room_: Room = ENDLESS, now: float = 0.0) -> tuple[list[Ticket], list[Refused]]:
    """What happens when `one` comes: who is started, who is refused."""
    started = list(lane.arrive(one, room_, now))
    return started, [] if one.is_started else list(lane.refused(one, room_, now))


def test_what_may_be_worked_on_follows_the_workers_and_has_some_headroom():
    assert room(Limits(), Capacity(1, 32, 1000)) == Room(40, 2000, 64_000)
    assert room(Limits(), Capacity(2, 2, 1000)).rows == 6
    assert room(Limits(), None) == Room(math.inf, math.inf, math.inf)


def test_what_the_operator_says_goes_before_it():
    limits = Limits(max_inflight_rows=1, max_inflight_tokens=2, max_queue_tokens=3)
    assert room(limits, Capacity(1, 32, 1000)) == Room(1, 2, 3)
    assert room(Limits(max_inflight_tokens=5), None).queue_tokens == 160


@pytest.mark.parametrize("limit", [Room(2, math.inf, 1000), Room(9, 20, 1000)], ids=["rows", "tokens"])
def test_what_has_no_place_waits(limit: Room):
    lane = Lane(Limits())
    first, second, third = ticket(), ticket(), ticket()
    assert [arrived(lane, one, limit) for one in (first, second, third)] == [([first], []), ([second], []), ([], [])]
    lane.leave(first, 1.0)
    assert list(lane.started(limit, 1.0)) == [third]


def test_what_is_larger_than_all_there_is_goes_alone_and_nobody_goes_past_it():
    lane, limit = Lane(Limits()), Room(4, 100, 1000)
    small, huge, later = ticket(), ticket(tokens=500, rows=64), ticket()
    arrived(lane, small, limit)
    assert arrived(lane, huge, limit) == ([], [])
    assert arrived(lane, later, limit) == ([], [])
    lane.leave(small, 1.0)
    assert list(lane.started(limit, 1.0)) == [huge]
    lane.leave(huge, 2.0)
    assert list(lane.started(limit, 2.0)) == [later]


def test_the_queue_is_bounded_in_tokens_too_but_one_may_always_wait():
    lane, limit = Lane(Limits(max_inflight=1)), Room(9, 1000, 50)
    arrived(lane, ticket(), limit)
    assert arrived(lane, ticket(tokens=900), limit) == ([], [])
    _, refused = arrived(lane, newest := ticket(), limit)
    assert [one.ticket for one in refused] == [newest]
    assert lane.queued == 1


def test_a_flood_of_one_tenant_leaves_the_others_a_place_in_the_queue():
    lane = Lane(Limits(max_inflight=1, max_queue=10))
    for _ in range(20):
        arrived(lane, ticket("flood"))
    for _ in range(5):
        _, (refused,) = arrived(lane, ticket("other"))
        assert refused.ticket.tenant == "flood"


def test_a_higher_class_takes_the_place_of_a_lower_one_in_a_full_queue():
    lane = Lane(Limits(max_inflight=1, max_queue=1))
    arrived(lane, ticket())
    arrived(lane, low := ticket())
    _, (refused,) = arrived(lane, ticket(priority=1))
    assert refused.ticket is low
    _, (refused,) = arrived(lane, newest := ticket(priority=-1))
    assert refused.ticket is newest


def test_what_the_workers_are_done_with_makes_place_though_nobody_has_read_it():
    lane, limit = Lane(Limits(max_inflight=2)), Room(1, 100, 1000)
    unread, second, third = ticket(), ticket(), ticket()
    for one in (unread, second, third):
        arrived(lane, one, limit)
    lane.finish(unread, 1.0)
    assert list(lane.started(limit, 1.0)) == [second]
    lane.finish(second, 2.0)
    assert list(lane.started(limit, 2.0)) == [], "so many may be unread"
    lane.leave(unread, 3.0)
    assert list(lane.started(limit, 3.0)) == [third]
    assert lane.working == third.work


def test_a_tenant_that_may_have_no_more_waiting_is_told_so():
    lane = Lane(Limits(max_inflight=1, tenant_max_queue=1))
    for _ in range(2):
        arrived(lane, ticket("a"))
    _, (refused,) = arrived(lane, ticket("a"))
    assert refused.is_tenants
    assert arrived(lane, ticket("b")) == ([], [])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "correct", "finish", "leave", "grow", "shrink"]),
        st.sampled_from("abc"),
        st.integers(1, 100),
        st.integers(-10, 10),
        st.floats(0, 5),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=100)
@given(STEPS, st.data())
def test_counts_always_add_up_and_return_to_zero_whatever_happens_when(steps: list[Any], data: st.DataObject):
    limits = Limits(max_inflight=4, max_queue=6, tenant_max_inflight=3, tenant_max_queue=4)
    lane, here, now, rows = Lane(limits), [], 0.0, 4
    for what, tenant, tokens, priority, seconds in steps:
        now += seconds
        rows = {"grow": rows + 2, "shrink": max(0, rows - 2)}.get(what, rows)
        limit = Room(rows, 100, 300)
        if what == "come":
            here.append(ticket(tenant, tokens, priority))
            for refused in arrived(lane, here[-1], limit, now)[1]:
                here.remove(refused.ticket)
                assert not refused.ticket.is_started
                assert 0.1 <= refused.retry_after_seconds <= 60
        elif here:
            one = data.draw(st.sampled_from(here))
            if what == "finish" and one.is_started:
                lane.finish(one, now)
            if what == "correct" and one.is_started and not one.is_finished:
                lane.correct(one, Work(1, tokens))
            if what == "leave":
                here.remove(one)
                lane.leave(one, now)
        list(lane.started(limit, now))
        working = [one for one in here if one.is_started]
        assert (lane.inflight, lane.queued) == (len(working), len(here) - len(working))
        assert lane.working == sum((one.work for one in working if not one.is_finished), Work())
        assert lane.inflight <= 4
        assert lane.queued <= 6
        assert lane.inflight or not lane.queued, "nobody waits for nobody"
    for one in here:
        lane.leave(one, now)
    assert (lane.inflight, lane.queued, lane.working) == (0, 0, Work())


def test_nobody_is_told_less_than_its_own_work_takes():
    lane = Lane(Limits(max_inflight=1, tenant_max_queue=1))
    arrived(lane, working := ticket("a", tokens=100), now=0.0)
    arrived(lane, ticket("a", tokens=10), now=0.0)
    lane.leave(working, 10.0)  # ten tokens a second, while something waited
    list(lane.started(ENDLESS, 10.0))
    arrived(lane, ticket("a", tokens=1), now=10.0)
    _, (refused,) = arrived(lane, ticket("a", tokens=300), now=10.0)
    assert refused.retry_after_seconds == pytest.approx(30)
