from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.admission.gate import Admission
from gateway.admission.lane import LaneState
from gateway.admission.limits import Limits
from gateway.admission.ticket import Ticket
from gateway.admission.work import Work
from gateway.models import Capacity
from rpc.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def admission_of(capacity: Callable[[str], Capacity | None] = lambda _: None, **limits: Any) -> Admission:
    return Admission(Limits(**limits), capacity)


def ticket(tokens: int = 10, model: str = "tiny", **given: Any) -> Ticket:
    return Ticket(model, work=Work(1, tokens), **given)


class Request:
    """A request that holds its place until it is told to leave; its task has run as far as it can."""

    def __init__(self, admission: Admission, ticket_: Ticket | None = None) -> None:
        self.admitted = asyncio.Event()
        self.ticket = ticket_ or ticket()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(admission))

    async def _hold(self, admission: Admission) -> None:
        async with admission.admitted(self.ticket):
            self.admitted.set()
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_requests_beyond_the_bound_wait_and_enter_in_their_order() -> None:
    admission = admission_of(max_inflight=1, max_queue=2)
    first, second, third = Request(admission), Request(admission), Request(admission)
    await settle()
    assert (admission.inflight, admission.queued) == (1, 2)
    assert not second.admitted.is_set()
    await first.leave()
    await settle()
    assert second.admitted.is_set()
    assert not third.admitted.is_set()
    await second.leave()
    await third.leave()
    assert (admission.inflight, admission.queued) == (0, 0)


async def test_it_is_told_for_how_long_each_turn_was_waited_for() -> None:
    now, turns = 0.0, []
    admission = Admission(
        Limits(max_inflight=1),
        lambda _: None,
        clock=lambda: now,
        on_turn=lambda model, seconds: turns.append((model, seconds)),
    )
    first, second = Request(admission), Request(admission)
    await settle()
    now = 2.5
    await first.leave()
    await settle()
    await second.leave()
    assert turns == [("tiny", 0.0), ("tiny", 2.5)]


async def test_the_state_of_a_model_has_its_limits_whether_or_not_it_was_asked_for() -> None:
    limits = {"max_inflight": 1, "max_queue": 7, "max_queue_tokens": 500}
    admission = admission_of(**limits)
    requests = [Request(admission, ticket(40)) for _ in range(3)]
    await settle()
    assert list(admission.models) == ["tiny"]
    assert admission.state("tiny") == LaneState(1, 2, 80, 7, 500)
    assert admission.state("other") == LaneState(0, 0, 0, 7, 500)
    for request in requests:
        await request.leave()
    assert admission.state("tiny") == LaneState(0, 0, 0, 7, 500)


async def test_a_full_queue_refuses_at_once_with_a_retry_hint() -> None:
    admission = admission_of(max_inflight=1, max_queue=1)
    first, second = Request(admission), Request(admission)
    await settle()
    with pytest.raises(ServiceError) as caught:
        async with admission.admitted(ticket()):
            raise AssertionError("admitted")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert caught.value.retry_after_seconds
    await first.leave()
    await second.leave()


async def test_without_a_queue_the_bound_itself_refuses() -> None:
    admission = admission_of(max_inflight=1, max_queue=0)
    first = Request(admission)
    await settle()
    with pytest.raises(ServiceError):
        await AsyncExitStack().enter_async_context(admission.admitted(ticket()))
    await first.leave()
    async with admission.admitted(ticket()):
        assert admission.inflight == 1


async def test_while_draining_new_requests_are_refused_and_queued_ones_go_on() -> None:
    admission = admission_of(max_inflight=1, max_queue=1)
    first, second = Request(admission), Request(admission)
    await settle()
    admission.drain()
    with pytest.raises(ServiceError) as caught:
        await AsyncExitStack().enter_async_context(admission.admitted(ticket()))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await first.leave()
    await second.leave()


async def cancel_then_leave(waiting: Request, first: Request) -> None:
    """The place becomes free after the waiting request was cancelled and before it could notice."""
    first._leave.set()  # its task will run first
    waiting.task.cancel()
    await first.task


async def leave_then_cancel(waiting: Request, first: Request) -> None:
    """The waiting request is cancelled after it was given the place and before it could notice."""
    first._leave.set()
    asyncio.get_running_loop().call_soon(waiting.task.cancel)  # after the first one has left
    await first.task


async def only_cancel(waiting: Request, first: Request) -> None:
    waiting.task.cancel()
    await settle()
    await first.leave()


@pytest.mark.parametrize("end", [cancel_then_leave, leave_then_cancel, only_cancel])
async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_behind(
    end: Callable[[Request, Request], Awaitable[None]],
) -> None:
    admission = admission_of(max_inflight=1, max_queue=2)
    first, cancelled, last = Request(admission), Request(admission), Request(admission)
    await settle()
    await end(cancelled, first)
    with pytest.raises(asyncio.CancelledError):
        await cancelled.task
    await settle()
    assert last.admitted.is_set()
    await last.leave()
    assert (admission.inflight, admission.queued) == (0, 0)


async def test_an_error_in_the_body_gives_the_place_back() -> None:
    admission = admission_of(max_inflight=1, max_queue=0)
    with pytest.raises(KeyError):
        async with admission.admitted(ticket()):
            raise KeyError
    assert admission.inflight == 0


async def test_a_request_that_was_pushed_out_hears_of_it_and_leaves_nothing_behind() -> None:
    admission = admission_of(max_inflight=1, max_queue=1)
    first, low = Request(admission), Request(admission)
    await settle()
    high = Request(admission, ticket(priority=1))
    with pytest.raises(ServiceError) as caught:
        await low.task
    assert caught.value.reason == "QUEUE_FULL"
    await first.leave()
    await high.leave()
    assert (admission.inflight, admission.queued, admission._turns) == (0, 0, {})


async def test_a_request_that_is_pushed_out_in_the_moment_it_is_cancelled_is_cancelled() -> None:
    admission = admission_of(max_inflight=1, max_queue=1)
    first, low = Request(admission), Request(admission)
    await settle()
    high = Request(admission, ticket(priority=1))  # its task will run first
    low.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await low.task
    await first.leave()
    await high.leave()
    assert (admission.inflight, admission.queued, admission._turns) == (0, 0, {})


async def test_a_tenant_has_a_limit_and_a_reason_of_its_own() -> None:
    admission = admission_of(max_inflight=9, tenant_max_inflight=1, tenant_max_queue=0)
    first = Request(admission, ticket(tenant="a"))
    await settle()
    with pytest.raises(ServiceError) as caught:
        await AsyncExitStack().enter_async_context(admission.admitted(ticket(tenant="a")))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_QUEUE_FULL")
    assert caught.value.retry_after_seconds
    async with admission.admitted(ticket(tenant="b")):
        assert admission.inflight == 2
    await first.leave()


async def test_one_models_overload_does_not_hold_up_another_models_requests() -> None:
    admission = admission_of(max_inflight=1, max_queue=1)
    full = [Request(admission), Request(admission)]
    await settle()
    async with admission.admitted(ticket(model="other")):
        assert (admission.inflight, admission.queued) == (2, 1)
    for request in full:
        await request.leave()


async def test_a_worker_that_comes_has_places_for_those_who_wait_and_one_that_goes_takes_none_away() -> None:
    workers = [Capacity(1, 0, 5)]
    admission = admission_of(lambda _: workers[0] if workers else None)
    first, second, third = Request(admission), Request(admission), Request(admission)
    await settle()
    assert (admission.inflight, admission.queued) == (1, 2)
    workers.clear()
    await first.leave()
    await settle()
    assert second.admitted.is_set(), "what was known last holds while no worker is ready"
    assert not third.admitted.is_set()
    workers.append(Capacity(2, 0, 10))
    admission.look()
    await settle()
    assert third.admitted.is_set()
    await second.leave()
    await third.leave()
    assert (admission.inflight, admission.queued) == (0, 0)


async def test_what_a_request_turns_out_to_be_makes_place_or_takes_it() -> None:
    admission = admission_of(max_inflight_tokens=100)
    first, second, third = (Request(admission, ticket(60)) for _ in range(3))
    await settle()
    assert not second.admitted.is_set()
    admission.correct(first.ticket, Work(1, 20))
    await settle()
    assert second.admitted.is_set()
    admission.correct(second.ticket, Work(1, 80))
    await first.leave()
    await settle()
    assert not third.admitted.is_set()
    await second.leave()
    await third.leave()
    assert admission.inflight == 0
