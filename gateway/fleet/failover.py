"""The rows of one request, wherever they are computed: when a worker is lost, another one goes on where it ended.

What is tried again: what failed for a reason of the worker's, not of the request's. A request that loses worker after
worker without a new token is given up, as it may be what breaks them. All requests together have a budget, so that
retries never become the load that breaks the rest.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, aclosing
from dataclasses import dataclass
from typing import Protocol

from gateway.deadline import Deadline
from gateway.fleet.breaker import Breaker
from gateway.fleet.replay import Attempt, Replay
from gateway.fleet.retry_budget import RetryBudget
from gateway.fleet.worker_call import ABOUT_THE_WORKER
from gateway.generation import Row, RowEvent
from gateway.models import ServedModel
from rpc import log
from rpc.errors import ServiceError, unavailable

LOGGER = logging.getLogger("tokenmill.gateway.failover")
MAX_FRUITLESS = 2  # attempts without a new token
FULL = "QUEUE_FULL"
# An orderly end: no sign that anything is wrong with the worker.
ORDERLY = frozenset({"DRAINING", "SHUTTING_DOWN", "LOADING"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks of the workers: rows of ids that the vocabulary of `fingerprint` has made."""

    model: ServedModel
    rows: Sequence[Row]
    fingerprint: str
    deadline: Deadline


class Call(Protocol):
    """An attempt that runs at a worker."""

    def events(self) -> AsyncGenerator[Sequence[RowEvent], None]:
        """What happened to its rows. Errors: ServiceError."""
        ...

    async def stop_row(self, row: int) -> None:
        """End one of its rows."""
        ...


class Worker(Protocol):
    """A worker that was chosen."""

    @property
    def target(self) -> str:
        """Its address, for the log."""
        ...

    @property
    def instance_id(self) -> str:
        """New at each of its starts."""
        ...

    @property
    def breaker(self) -> Breaker:
        """Where its failures are counted."""
        ...

    def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AbstractAsyncContextManager[Call]:
        """Send `rows`; leaving the context ends them. Errors: ServiceError."""
        ...


class Workers(Protocol):
    """The workers, as a request that needs one sees them."""

    def chosen(
        self, asked: Asked, rows: Sequence[Row], avoided: Collection[str]
    ) -> AbstractContextManager[tuple[Worker, ServedModel]]:
        """Choose one for `rows` during the body, and its own description of the model. Errors: ServiceError.

        Those whose instance id is among the `avoided` are chosen only if there are no others.
        """
        ...

    def has_other(self, asked: Asked, avoided: Collection[str]) -> bool:
        """Whether one that is not avoided could take over now."""
        ...

    async def wait_for_worker(self, asked: Asked) -> bool:
        """Wait until one could take over, be it one that was avoided; False: none could for as long as it is worth."""
        ...

    async def wait_for_room(self, asked: Asked, lost_at: float) -> bool:
        """Wait until one that was full may have room; False: it has been too long since the worker was lost."""
        ...


class Failover:
    """Owned by the request. Implements the pipeline's RunningRows."""

    def __init__(self, workers: Workers, budget: RetryBudget, asked: Asked, clock: Callable[[], float]) -> None:
        self._workers = workers
        self._budget = budget
        self._asked = asked
        self._clock = clock
        self._replay = Replay(asked.rows, clock)
        self._running: tuple[Attempt, Call] | None = None
        self._avoided: list[str] = []
        self._full: list[str] = []  # avoided until room was waited for
        self._lost_at: float | None = None  # when a worker was lost, the last time
        self._fruitless = 0  # attempts in a row

    async def events(self) -> AsyncGenerator[Sequence[RowEvent], None]:
        """What happened to the rows, in order, in groups as they arrived. Errors: ServiceError."""
        self._budget.earn()
        failure: ServiceError | None = None
        while not self._replay.is_over:
            attempt = self._replay.attempt()
            with ExitStack() as stack:
                try:
                    chosen = self._workers.chosen(self._asked, attempt.rows, (*self._avoided, *self._full))
                    worker, served = stack.enter_context(chosen)
                except ServiceError as error:
                    # What was lost explains more than that nobody takes it over.
                    raise failure or error from None
                tokens = self._replay.tokens
                try:
                    async with aclosing(self._run(attempt, worker, served)) as groups:
                        async for events in groups:
                            yield events
                except ServiceError as error:
                    if error.reason != FULL:
                        self._fruitless = 0 if self._replay.tokens > tokens else self._fruitless + 1
                    goes_on = self._goes_on(worker, error)
                    if failure is None or error.reason != FULL:
                        failure = error  # that a worker was lost explains more than that no other has room
                    if not goes_on:
                        raise failure from None
                else:
                    return
            if not (self._has_other() or await self._wait()):
                raise failure

    async def stop_row(self, row: int) -> None:
        """End one row; the worker answers that it has finished. It is not asked for again."""
        self._replay.forget(row)
        if self._running is None:
            return
        attempt, call = self._running
        place = attempt.place_of(row)
        if place is not None:
            await call.stop_row(place)

    async def _run(
        self, attempt: Attempt, worker: Worker, served: ServedModel
    ) -> AsyncGenerator[Sequence[RowEvent], None]:
        """Have one worker do what is left. Errors: ServiceError."""
        try:
            async with worker.open(served, attempt.rows, self._asked.fingerprint, self._asked.deadline) as call:
                self._running = attempt, call
                async with aclosing(call.events()) as groups:
                    async for group in groups:
                        worker.breaker.succeed()
                        if events := attempt.heard(group):
                            yield events
        finally:
            self._running = None
        if not self._replay.is_over:
            raise unavailable("WORKER_LOST", "the model worker ended the call before its rows had ended")

    def _goes_on(self, worker: Worker, error: ServiceError) -> bool:
        """Note that an attempt at `worker` failed. Whether there is to be another one."""
        if not error.is_unavailable and error.reason not in {FULL, *ABOUT_THE_WORKER}:
            return False  # no other worker would do better
        if error.is_unavailable and error.reason not in ORDERLY:
            worker.breaker.fail()
        if error.reason == FULL:
            self._full.append(worker.instance_id)
            # What was lost has been accepted, and waits for room; otherwise that is for the caller to decide.
            is_worth_it = self._lost_at is not None or (self._has_other() and self._budget.spend())
        else:
            self._avoided.append(worker.instance_id)
            self._lost_at = self._clock()
            is_worth_it = self._fruitless < MAX_FRUITLESS and self._budget.spend()
        goes_on = is_worth_it and self._asked.deadline.remaining() != 0
        log.event(
            LOGGER,
            logging.WARNING,
            "attempt failed",
            target=worker.target,
            code=error.code.name,
            reason=error.reason,
            goes_on=goes_on,
        )
        return goes_on

    def _has_other(self) -> bool:
        return self._workers.has_other(self._asked, (*self._avoided, *self._full))

    async def _wait(self) -> bool:
        """Wait until it may be worth asking again. Whether it is."""
        if not self._full or self._lost_at is None:
            return await self._workers.wait_for_worker(self._asked)
        self._full.clear()
        return await self._workers.wait_for_room(self._asked, self._lost_at)
