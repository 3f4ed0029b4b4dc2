"""One model's requests: which of them are worked on, which wait, which are refused. Numbers in, decisions out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.admission.completion_rate import CompletionRate
from gateway.admission.fair_queue import FairQueue
from gateway.admission.limits import Limits, Room
from gateway.admission.ticket import Ticket
from gateway.admission.work import Work


class Refused(NamedTuple):
    """A ticket that may not wait, and when it is worth coming back."""

    ticket: Ticket
    is_tenants: bool  # its tenant has too much waiting, whatever others have
    retry_after_seconds: float


class LaneState(NamedTuple):
    """What there is of one model now, and how much may wait at most."""

    running: int
    waiting: int
    waiting_tokens: int  # as estimated
    max_waiting: int
    max_waiting_tokens: float  # infinite: nothing is known of the workers


class Lane:
    """Owns the counts of what is worked on, and the queue before it. No clock, no I/O."""

    def __init__(self, limits: Limits) -> None:
        self.inflight = 0
        self._limits = limits
        self._working = Work()
        self._queue = FairQueue(limits.ageing_seconds, limits.weights, limits.tenant_max_inflight)
        self._rate = CompletionRate()

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._queue.queued

    @property
    def queued_tokens(self) -> int:
        """What the requests that wait come to, as estimated."""
        return self._queue.queued_tokens

    @property
    def working(self) -> Work:
        """What the requests that are worked on come to."""
        return self._working

    def arrive(self, ticket: Ticket, room: Room, now: float) -> Iterator[Ticket]:
        """Let a ticket wait, or start it at once if it is its turn."""
        self._queue.add(ticket, now)
        if self._has_place(ticket, room):  # else nobody's: who waits has had none before it came
            yield from self.started(room, now)
        self._rate.watch(now, waits=self.queued > 0)

    def started(self, room: Room, now: float) -> Iterator[Ticket]:
        """Start who can be started, one after the other."""
        while (ticket := self._queue.next(now)) and self._has_place(ticket, room):
            self._queue.start(ticket, now)
            self.inflight += 1
            self._working += ticket.work
            yield ticket
        self._rate.watch(now, waits=self.queued > 0)

    def refused(self, newcomer: Ticket, room: Room, now: float) -> Iterator[Refused]:
        """Refuse who has come too many with `newcomer`, which still waits: it or who has less right to wait."""
        tenant = self._queue.tenant(newcomer.tenant)
        most = self._limits.tenant_max_queue
        if most is not None and tenant.queued > most:
            last = self._queue.last_of(tenant, now)
            self._queue.leave(last)
            # Those who wait share what is done.
            yield self._refusal(last, tenant.queued_tokens * max(1, self._queue.waiting_tenants), now, is_tenants=True)
        while self._is_too_long(room):
            last = self._queue.last(newcomer, now)
            self._queue.leave(last)
            yield self._refusal(last, self._queue.queued_tokens, now)
        self._rate.watch(now, waits=self.queued > 0)

    def correct(self, ticket: Ticket, work: Work) -> None:
        """Count what a started ticket has turned out to be."""
        self._working += work - ticket.work
        self._queue.correct(ticket, work)

    def finish(self, ticket: Ticket, now: float) -> None:
        """Give the workers' place of a started ticket to others; it stays in flight until its caller has read it."""
        if ticket.is_finished:
            return
        ticket.is_finished = True
        self._working -= ticket.work
        # As estimated, like all that waits: if estimates are wrong, they are so on both sides.
        self._rate.end(ticket.queued_tokens, now)

    def leave(self, ticket: Ticket, now: float) -> None:
        """Take a ticket out that has ended, or waits no longer."""
        self._queue.leave(ticket)
        if ticket.is_started:
            self.inflight -= 1
            self.finish(ticket, now)

    def _has_place(self, ticket: Ticket, room: Room) -> bool:
        """Nobody goes past the one whose turn it is; what is more than there is goes alone."""
        is_alone = not self._working.rows
        return self.inflight < self._limits.max_inflight and (is_alone or room.holds(self._working + ticket.work))

    def _is_too_long(self, room: Room) -> bool:
        """One may wait though it alone is too much, unless nobody may."""
        is_too_much = self._queue.queued_tokens > room.queue_tokens and self.queued > 1
        return self.queued > self._limits.max_queue or is_too_much

    def _refusal(self, ticket: Ticket, ahead: int, now: float, *, is_tenants: bool = False) -> Refused:
        """`ahead`: tokens that wait for what it would have waited for."""
        return Refused(ticket, is_tenants, self._rate.seconds_for(max(ahead, ticket.queued_tokens), now))
