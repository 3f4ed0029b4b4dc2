from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import pytest

from gateway.admission import Admission
from rpc.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Request:
    """A request that holds its place until it is told to leave; its task has run as far as it can."""

    def __init__(self, admission: Admission) -> None:
        self.admitted = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(admission))

    async def _hold(self, admission: Admission) -> None:
        async with admission.admitted():
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
    admission = Admission(max_inflight=1, max_queue=2)
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


async def test_a_full_queue_refuses_at_once_with_a_retry_hint() -> None:
    admission = Admission(max_inflight=1, max_queue=1)
    first, second = Request(admission), Request(admission)
    await settle()
    with pytest.raises(ServiceError) as caught:
        async with admission.admitted():
            raise AssertionError("admitted")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert caught.value.retry_after_seconds
    await first.leave()
    await second.leave()


async def test_without_a_queue_the_bound_itself_refuses() -> None:
    admission = Admission(max_inflight=1, max_queue=0)
    first = Request(admission)
    await settle()
    with pytest.raises(ServiceError):
        await AsyncExitStack().enter_async_context(admission.admitted())
    await first.leave()
    async with admission.admitted():
        assert admission.inflight == 1


async def test_while_draining_new_requests_are_refused_and_queued_ones_go_on() -> None:
    admission = Admission(max_inflight=1, max_queue=1)
    first, second = Request(admission), Request(admission)
    await settle()
    admission.drain()
    with pytest.raises(ServiceError) as caught:
        await AsyncExitStack().enter_async_context(admission.admitted())
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
    admission = Admission(max_inflight=1, max_queue=2)
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
    admission = Admission(max_inflight=1, max_queue=0)
    with pytest.raises(KeyError):
        async with admission.admitted():
            raise KeyError
    assert admission.inflight == 0
