"""Whose turn is next: priority classes with ageing, and within a class a fair share of the work for each tenant.

Tenants have start tags (start-time fair queueing, Goyal, Vin and Cheng, 1996): what was started for a tenant moves its
tag on by that work over its weight, and of equals the lowest tag goes first. A tenant's request gains a class for every
`ageing_seconds` that it has waited *while its tenant was owed work*, so that the depth of a flood does not age; among
the requests of one tenant every wait counts. Who has waited long enough goes before everybody: nothing starves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from gateway.admission.tenant import Tenant
from gateway.admission.ticket import Ticket
from gateway.admission.virtual_time import VirtualTime
from gateway.admission.work import Work

MAX_IDLE_TENANTS = 1024  # remembered for work they have had ahead of others
_AGE_STEPS = 4  # that virtual time is remembered by, per ageing period


class FairQueue:
    """Owns the tickets of one model, those that wait in their order, and what each tenant has had. No clock, no I/O."""

    def __init__(self, ageing_seconds: float, weights: Mapping[str, float], tenant_max_inflight: int | None) -> None:
        self.queued = 0
        self.queued_tokens = 0
        self._ageing_seconds = ageing_seconds
        self._weights = weights
        self._tenant_max_inflight = tenant_max_inflight
        self._virtual = VirtualTime(ageing_seconds / _AGE_STEPS)
        self._tenants: dict[str, Tenant] = {}
        self._numbers = itertools.count()

    def tenant(self, name: str) -> Tenant:
        """What is known of a tenant."""
        return self._tenants.get(name) or Tenant(self._weights.get(name, 1.0))

    @property
    def tenants(self) -> int:
        """How many are remembered."""
        return len(self._tenants)

    @property
    def waiting_tenants(self) -> int:
        """How many have something that waits."""
        return sum(tenant.queued > 0 for tenant in self._tenants.values())

    def add(self, ticket: Ticket, now: float) -> None:
        """Let a new ticket wait."""
        tenant = self._tenants.setdefault(ticket.tenant, self.tenant(ticket.tenant))
        if not tenant.queued:
            tenant.start = max(tenant.start, self._virtual.value)  # nobody is owed for the time it asked for nothing
        ticket.arrived, ticket.number, ticket.queued_tokens = now, next(self._numbers), ticket.work.tokens
        tenant.add(ticket)
        self.queued += 1
        self.queued_tokens += ticket.queued_tokens

    def next(self, now: float) -> Ticket | None:
        """Whose turn it is, if anybody's who may have one more."""
        most = self._tenant_max_inflight
        first: dict[int, Tenant] = {}  # in each class, by start tag
        for tenant in self._tenants.values():
            if tenant.queued and (most is None or tenant.inflight < most):
                for priority in tenant.waiting:
                    if priority not in first or tenant.start < first[priority].start:
                        first[priority] = tenant
        if not first:
            return None
        turns = ((self._owed_class(tenant, priority, now), -tenant.start, tenant) for priority, tenant in first.items())
        *_, tenant = max(turns, key=lambda turn: turn[:2])
        return max(tenant.oldest(), key=lambda ticket: (self._class(ticket, now), -ticket.number))

    def start(self, ticket: Ticket, now: float) -> None:
        """Stop its waiting and charge its tenant."""
        tenant = self._tenants[ticket.tenant]
        self._take_out(ticket, tenant)
        ticket.is_started = True
        tenant.inflight += 1
        self._virtual.advance(tenant.start, now)
        tenant.start += ticket.work.tokens / tenant.weight

    def correct(self, ticket: Ticket, work: Work) -> None:
        """Charge what a started ticket has turned out to be."""
        tenant = self._tenants[ticket.tenant]
        tenant.start += (work.tokens - ticket.work.tokens) / tenant.weight
        ticket.work = work

    def leave(self, ticket: Ticket) -> None:
        """Forget a ticket that has ended, or waits no longer; what never started is not charged."""
        tenant = self._tenants[ticket.tenant]
        if not ticket.is_started:
            self._take_out(ticket, tenant)
        else:
            if tenant.inflight == self._tenant_max_inflight:
                tenant.start = max(tenant.start, self._virtual.value)  # nobody is owed what is above its own limit
            tenant.inflight -= 1
        self._forget_idle(ticket.tenant, tenant)

    def last(self, newcomer: Ticket, now: float) -> Ticket:
        """Who gives way when too many wait: the newest, in the lowest class, of the tenant with the most that waits."""
        longest = max((tenant for tenant in self._tenants.values() if tenant.queued), key=lambda tenant: tenant.share)
        own = self.tenant(newcomer.tenant)
        return self.last_of(own if own.share >= longest.share else longest, now)

    def last_of(self, tenant: Tenant, now: float) -> Ticket:
        """Who of one tenant gives way."""
        return min(tenant.newest(), key=lambda ticket: (self._class(ticket, now), -ticket.number))

    def _class(self, ticket: Ticket, now: float, since: float = -math.inf) -> int:
        return ticket.priority + int((now - max(ticket.arrived, since)) / self._ageing_seconds)

    def _owed_class(self, tenant: Tenant, priority: int, now: float) -> int:
        """That of a tenant's first request in a class, aged from when the tenant was owed it."""
        since = self._virtual.reached(tenant.start)
        return priority if since is None else self._class(next(iter(tenant.waiting[priority])), now, since)

    def _take_out(self, ticket: Ticket, tenant: Tenant) -> None:
        tenant.remove(ticket)
        self.queued -= 1
        self.queued_tokens -= ticket.queued_tokens

    def _forget_idle(self, name: str, tenant: Tenant) -> None:
        """A tenant that is no further than the others needs no remembering; of the rest a bounded number is kept."""
        if tenant.is_idle and tenant.start <= self._virtual.value:
            del self._tenants[name]
        if len(self._tenants) > MAX_IDLE_TENANTS:
            idle = [name for name, tenant in self._tenants.items() if tenant.is_idle]
            idle.sort(key=lambda name: self._tenants[name].start)
            for forgotten in idle[: max(0, len(idle) - MAX_IDLE_TENANTS // 2)]:
                del self._tenants[forgotten]
