"""A request whose workers fail: what is tried again, what is not, and what the caller hears."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from gateway.deadline import Deadline
from gateway.fleet.breaker import FAILURES, Breaker
from gateway.fleet.failover import Asked, Failover
from gateway.fleet.retry_budget import RESERVE, RetryBudget
from rpc.errors import ServiceError, deadline_exceeded, internal, queue_full, unavailable, vocabulary_mismatch
from tests.gateway.fleet.rows import finished, row, tokens
from tests.gateway.fleet.test_worker_load import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence

    from gateway.generation import Row, RowEvent

GONE = unavailable("PEER_UNAVAILABLE", "the model worker cannot be reached")
DRAINING = unavailable("DRAINING", "the model worker is shutting down")
NO_WORKER = unavailable("NO_WORKER", "no worker is ready")
FULL = queue_full("the worker's queue", 1.0)
MODEL: Any = "as it was found"


@dataclass(eq=False)
class ScriptedWorker:
    """Says one script per call; an error in it ends the call. `asked` are the rows of each call."""

    target: str
    scripts: list[list[list[RowEvent] | Exception]]
    breaker: Breaker = field(default_factory=lambda: Breaker(Clock()))
    asked: list[Sequence[Row]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    open_calls: int = 0

    @property
    def instance_id(self) -> str:
        return self.target

    @asynccontextmanager
    async def open(
        self, model: Any, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AsyncIterator[ScriptedWorker]:
        assert model == f"as {self.target} describes it"
        self.asked.append(rows)
        self.open_calls += 1
        try:
            yield self
        finally:
            self.open_calls -= 1

    async def events(self) -> AsyncGenerator[list[RowEvent], None]:
        for group in self.scripts.pop(0):
            if isinstance(group, Exception):
                raise group
            yield group

    async def stop_row(self, place: int) -> None:
        self.stopped.append(place)


@dataclass
class Fleet:
    """Workers in the order in which they are chosen; the avoided ones only if there are no others."""

    workers: list[ScriptedWorker]
    counted: int = 0
    waited: int = 0
    comes_back: bool = True  # a worker, when it is waited for
    room_waits: int = 100  # so often room may be waited for

    @contextmanager
    def chosen(
        self, asked: Asked, rows: Sequence[Row], avoided: Collection[str]
    ) -> Iterator[tuple[ScriptedWorker, Any]]:
        pool = [worker for worker in self.workers if worker.instance_id not in avoided] or self.workers
        if not pool:
            raise NO_WORKER
        self.counted += 1
        try:
            yield pool[0], f"as {pool[0].target} describes it"
        finally:
            self.counted -= 1

    def has_other(self, asked: Asked, avoided: Collection[str]) -> bool:
        return any(worker.instance_id not in avoided for worker in self.workers)

    async def wait_for_worker(self, asked: Asked) -> bool:
        assert self.counted == 0, "what has ended is not counted while it waits"
        self.waited += 1
        return self.comes_back

    async def wait_for_room(self, asked: Asked, lost_at: float) -> bool:
        assert self.counted == 0, "what has ended is not counted while it waits"
        self.room_waits -= 1
        return self.room_waits >= 0


def fleet(*scripts: list[list[list[RowEvent] | Exception]]) -> Fleet:
    return Fleet([ScriptedWorker(f"worker {place}", list(script)) for place, script in enumerate(scripts)])


def failover(fleet: Fleet, *rows: Row, budget: RetryBudget | None = None, deadline: Deadline | None = None) -> Failover:
    asked = Asked(MODEL, rows or (row(1, 2),), "f", deadline or Deadline())
    return Failover(fleet, budget or RetryBudget(), asked, clock=Clock())


async def heard(request: Failover) -> list[RowEvent]:
    return [event async for group in request.events() for event in group]


async def failure(request: Failover) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await heard(request)
    return caught.value


async def test_what_was_lost_before_the_first_token_is_asked_for_elsewhere():
    both = fleet([[GONE]], [[[tokens(0, 9)], [finished(0)]]])
    assert [type(event).__name__ for event in await heard(failover(both))] == ["RowTokens", "RowFinished"]
    assert [list(one.ids) for worker in both.workers for one in worker.asked[0]] == [[1, 2], [1, 2]]
    assert both.counted == sum(worker.open_calls for worker in both.workers) == 0


async def test_what_was_lost_later_goes_on_where_it_ended():
    both = fleet([[[tokens(0, 9)], [tokens(0, 10)], GONE]], [[[tokens(0, 11)], [finished(0)]]])
    events = await heard(failover(both))
    assert events[:3] == [tokens(0, 9), tokens(0, 10), tokens(0, 11)]
    (again,) = both.workers[1].asked[0]
    assert (list(again.ids), again.generated_prefix) == ([1, 2, 9, 10], 2)


async def test_only_unfinished_rows_are_asked_for_again():
    both = fleet([[[finished(0), tokens(1, 9)], GONE]], [[[finished(0)]]])
    events = await heard(failover(both, row(1), row(2)))
    assert [event.row for event in events] == [0, 1, 1]


async def test_a_call_that_ends_before_its_rows_is_lost_too():
    both = fleet([[[tokens(0, 9)]]], [[[finished(0)]]])
    assert len(await heard(failover(both))) == 2


async def test_a_request_that_breaks_worker_after_worker_is_given_up_at_the_second():
    three = fleet([[GONE]], [[GONE]], [[[finished(0)]]])
    assert await failure(failover(three)) is GONE
    assert not three.workers[2].asked


async def test_attempts_with_a_new_token_do_not_count():
    script = [[[tokens(0, 9)], GONE]]
    many = fleet(script, script, script, script, [[[finished(0)]]])
    events = await heard(failover(many))
    assert len(events) == 5
    assert events[-1].usage.completion_tokens == 4


@pytest.mark.parametrize("error", [internal(), deadline_exceeded(), ServiceError(internal().code, "ROW", "a row")])
async def test_what_no_other_worker_would_do_better_is_not_tried_again(error):
    both = fleet([[error]], [[[finished(0)]]])
    assert await failure(failover(both)) is error
    assert not both.workers[1].asked
    assert both.workers[0].breaker._failures == 0


@pytest.mark.parametrize("error", [FULL, DRAINING, vocabulary_mismatch(None)])
async def test_a_worker_that_cannot_take_it_now_is_passed_over_and_not_marked(error):
    both = fleet([[error]] * 5, [[[finished(0)]]] * 5)
    for _ in range(5):
        await heard(failover(both))
    assert not both.workers[0].breaker.is_open


async def test_failures_open_the_breaker_and_an_answer_closes_it():
    clock = Clock()
    both = fleet([[GONE]] * FAILURES, [[[finished(0)]]] * FAILURES)
    both.workers[0].breaker = Breaker(clock)
    for _ in range(FAILURES):
        await heard(failover(both))
    assert both.workers[0].breaker.is_open
    both.workers[0].scripts = [[[finished(0)]]]
    await heard(failover(both))
    assert not both.workers[0].breaker.is_open


async def test_where_nobody_takes_over_the_caller_hears_what_was_lost():
    alone = fleet([[[tokens(0, 9)], GONE]])
    alone.comes_back = False
    assert await failure(failover(alone)) is GONE
    assert alone.waited == 1


async def test_a_full_fleet_says_so_at_once():
    both = fleet([[FULL]], [[FULL]])
    assert await failure(failover(both)) is FULL
    assert both.waited == 0
    assert [len(worker.asked) for worker in both.workers] == [1, 1]
    alone = fleet([[FULL]])
    assert await failure(failover(alone)) is FULL
    assert alone.waited == 0


async def test_what_was_lost_waits_for_room_where_all_others_are_full():
    full = [[FULL]] * 5
    both = fleet([[[tokens(0, 9)], GONE]], [*full, [[tokens(0, 10)], [finished(0)]]])
    events = await heard(failover(both, budget=budget_of(1)))
    assert events[:2] == [tokens(0, 9), tokens(0, 10)]
    assert [len(worker.asked) for worker in both.workers] == [1, 6], "the lost one is not asked again"
    assert (both.room_waits, both.waited) == (95, 0)


async def test_where_no_room_comes_the_caller_hears_what_was_lost():
    both = fleet([[[tokens(0, 9)], GONE]], [[FULL]] * 4)
    both.room_waits = 3
    assert await failure(failover(both)) is GONE
    assert len(both.workers[1].asked) == 4


async def test_after_the_deadline_room_is_not_waited_for():
    clock = Clock()
    both = fleet([[GONE]], [[FULL]] * 4)
    deadline = Deadline(clock() + 1, clock)
    request = failover(both, deadline=deadline)
    wait_for_room = both.wait_for_room

    async def late(asked: Asked, lost_at: float) -> bool:
        clock.now += 1
        return await wait_for_room(asked, lost_at)

    both.wait_for_room = late
    assert await failure(request) is GONE
    assert len(both.workers[1].asked) == 2


async def test_a_single_worker_is_waited_for_and_asked_again():
    alone = fleet([[[tokens(0, 9)], GONE], [[tokens(0, 10)], [finished(0)]]])
    assert [event.row for event in await heard(failover(alone))] == [0, 0, 0]
    assert alone.waited == 1
    assert list(alone.workers[0].asked[1][0].ids) == [1, 2, 9]


async def test_where_nobody_is_ready_it_is_said_at_once():
    nobody = fleet()
    assert await failure(failover(nobody)) is NO_WORKER
    assert nobody.waited == 0


def budget_of(retries: int) -> RetryBudget:
    budget = RetryBudget()
    for _ in range(int(RESERVE) - retries):
        assert budget.spend()
    return budget


async def test_without_a_budget_nothing_is_tried_again():
    both = fleet([[GONE]], [[[finished(0)]]])
    assert await failure(failover(both, budget=budget_of(0))) is GONE


async def test_after_the_deadline_nothing_is_tried_again():
    both = fleet([[GONE]], [[[finished(0)]]])
    assert await failure(failover(both, deadline=Deadline(0.0))) is GONE


async def test_a_stop_reaches_the_row_where_it_is_now_and_is_not_replayed():
    both = fleet([[[finished(0), tokens(1, 9), tokens(2, 9)], GONE]], [[[tokens(0, 10), tokens(1, 10)], GONE]])
    both.workers.append(ScriptedWorker("last", [[[finished(0)]]]))
    request = failover(both, row(1), row(2), row(3))
    async for group in request.events():
        if tokens(1, 10) in group:
            await request.stop_row(1)
    assert both.workers[1].stopped == [0]
    assert [list(one.ids) for one in both.workers[2].asked[0]] == [[3, 9, 10]]


async def test_when_all_that_is_left_was_stopped_nothing_is_asked_for_again():
    both = fleet([[[tokens(0, 9)], GONE]], [])
    request = failover(both)
    async for _ in request.events():
        await request.stop_row(0)
    assert not both.workers[1].asked


async def test_closing_it_ends_the_call():
    both = fleet([[[tokens(0, 9)], [finished(0)]]])
    events = failover(both).events()
    await anext(events)
    assert (both.counted, both.workers[0].open_calls) == (1, 1)
    await events.aclose()
    assert (both.counted, both.workers[0].open_calls) == (0, 0)
