"""The gate that every request passes: it waits here for its turn, in its model's lane, or is refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

from gateway.admission.lane import Lane, LaneState, Refused
from gateway.admission.limits import Limits, Room, room
from gateway.admission.ticket import Ticket
from gateway.admission.work import Work
from gateway.models import Capacity
from rpc.errors import ServiceError, queue_full, tenant_queue_full, unavailable


class Admission:
    """Owns the lanes, one for each model that was ever asked for, and who waits in them; event loop only.

    `capacity` is what the ready workers of a model hold, None if none is ready.
    """

    def __init__(
        self,
        limits: Limits,
        capacity: Callable[[str], Capacity | None],
        clock: Callable[[], float] = time.monotonic,
        on_turn: Callable[[str, float], None] = lambda _model, _seconds: None,
    ) -> None:
        """`on_turn` is told of whoever's turn has come: the model, and for how long that was waited."""
        self._limits = limits
        self._capacity = capacity
        self._clock = clock
        self._on_turn = on_turn
        self._lanes: dict[str, Lane] = {}
        self._known: dict[str, Capacity] = {}  # as it was last, for while no worker is ready
        self._turns: dict[Ticket, asyncio.Future[Refused | None]] = {}
        self._draining = False

    @property
    def inflight(self) -> int:
        """Requests that are worked on."""
        return sum(lane.inflight for lane in self._lanes.values())

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return sum(lane.queued for lane in self._lanes.values())

    @property
    def models(self) -> Iterable[str]:
        """Those that were ever asked for."""
        return self._lanes

    def state(self, model: str) -> LaneState:
        """What there is of one model now."""
        limits = self._limits.max_queue, self._room(model).queue_tokens
        lane = self._lanes.get(model)
        if lane is None:
            return LaneState(0, 0, 0, *limits)
        return LaneState(lane.inflight, lane.queued, lane.queued_tokens, *limits)

    def drain(self) -> None:
        """Refuse new requests from now on; admitted and queued ones go on."""
        self._draining = True

    def look(self) -> None:
        """Start who can be started, now that workers have come or gone."""
        for model in self._lanes:
            self._start(model)

    @asynccontextmanager
    async def admitted(self, ticket: Ticket) -> AsyncIterator[None]:
        """Hold a place while the body runs, after waiting for it if need be.

        Errors: ServiceError (QUEUE_FULL or TENANT_QUEUE_FULL with a retry hint; DRAINING).
        """
        if self._draining:
            raise unavailable("DRAINING", "the gateway is shutting down; nothing was started")
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        lane = self._lanes.setdefault(ticket.model, Lane(self._limits))
        try:
            self._tell_started(lane.arrive(ticket, self._room(ticket.model), self._clock()))
            if not ticket.is_started:
                self._refuse(ticket)
            if refused := await turn:
                raise _error(refused)
            self._on_turn(ticket.model, self._clock() - ticket.arrived)
            yield
        finally:
            if self._turns.pop(ticket, None):  # else it was refused, and is in the lane no more
                lane.leave(ticket, self._clock())
                self._start(ticket.model)

    def correct(self, ticket: Ticket, work: Work) -> None:
        """Count what an admitted request has turned out to be, now that it is encoded."""
        self._lanes[ticket.model].correct(ticket, work)
        self._start(ticket.model)

    def finish(self, ticket: Ticket) -> None:
        """Let others have what an admitted request had of its workers: only its caller is not done with it."""
        self._lanes[ticket.model].finish(ticket, self._clock())
        self._start(ticket.model)

    def _start(self, model: str) -> None:
        self._tell_started(self._lanes[model].started(self._room(model), self._clock()))

    def _tell_started(self, started: Iterator[Ticket]) -> None:
        for ticket in started:
            _tell(self._turns[ticket], None)

    def _refuse(self, newcomer: Ticket) -> None:
        lane = self._lanes[newcomer.model]
        for refused in lane.refused(newcomer, self._room(newcomer.model), self._clock()):
            _tell(self._turns.pop(refused.ticket), refused)

    def _room(self, model: str) -> Room:
        workers = self._capacity(model) or self._known.get(model)
        if workers:
            self._known[model] = workers
        return room(self._limits, workers)


def _tell(turn: asyncio.Future[Refused | None], what: Refused | None) -> None:
    if not turn.done():  # else it was cancelled in this moment, and leaves when its task runs
        turn.set_result(what)


def _error(refused: Refused) -> ServiceError:
    if refused.is_tenants:
        return tenant_queue_full(refused.retry_after_seconds)
    return queue_full("the gateway's queue", refused.retry_after_seconds)
