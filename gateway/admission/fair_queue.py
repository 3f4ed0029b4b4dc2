"""Whose turn is next: priority classes with ageing, and within a class a fair share of the work for each tenant.

Tenants have start tags (start-time fair queueing, Goyal, Vin and Cheng, 1996): what was started for a tenant moves its
tag on by that work over its weight, and of equals the lowest tag goes first. A tenant's request gains a class for every
`ageing_seconds` that it has waited *while its tenant was owed work*, so that the depth of a flood does not age; among
the requests of one tenant every wait counts. Who has waited long enough goes before everybody: nothing starves.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.admission.virtual_time import VirtualTime
from gateway.admission.work import Work

MAX_IDLE_TENANTS = 1024  # remembered for work they have had ahead of others
_AGE_STEPS = 4  # that virtual time is remembered by, per ageing period


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: who asks for what. Owned by the lane it stands in."""

    model: str
    tenant: str = ""
    priority: int = 0
    work: Work = field(default_factory=Work)
    arrived: float = 0.0
    number: int = 0  # in order of arrival
    queued_tokens: int = 0  # its work as estimated when it came: what is counted while it waits
    is_started: bool = False
    is_finished: bool = False  # its workers are done with it


class Tenant:
    """What is known of one tenant; owned by the fair queue."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.start = 0.0  # tag of what is started for it next
        self.inflight = 0
        self.queued = 0  # requests that wait, and their tokens:
        self.queued_tokens = 0
        self._waiting: dict[int, OrderedDict[Ticket, None]] = {}  # by class, in order of arrival

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing here."""
        return not (self.queued or self.inflight)

    def add(self, ticket: Ticket) -> None:
        """Let it wait."""
        self._waiting.setdefault(ticket.priority, OrderedDict())[ticket] = None
        self.queued += 1
        self.queued_tokens += ticket.queued_tokens

    def remove(self, ticket: Ticket) -> None:
        """It does not wait any more."""
        tickets = self._waiting[ticket.priority]
        del tickets[ticket]
        if not tickets:
            del self._waiting[ticket.priority]
        self.queued -= 1
        self.queued_tokens -= ticket.queued_tokens

    def oldest(self) -> Iterator[Ticket]:
        """The first of each class."""
        return (next(iter(tickets)) for tickets in self._waiting.values())

    def newest(self) -> Iterator[Ticket]:
        """The last of each class."""
        return (next(reversed(tickets)) for tickets in self._waiting.values())


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
        may = [
            tenant for tenant in self._tenants.values() if tenant.queued and (most is None or tenant.inflight < most)
        ]
        if not may:
            return None
        first = min(may, key=lambda tenant: (-self._owed_class(tenant, now), tenant.start))
        return max(first.oldest(), key=lambda ticket: (self._class(ticket, now), -ticket.number))

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

    def last(self, now: float) -> Ticket:
        """Who gives way when too many wait: the newest, in the lowest class, of the tenant with the most that waits."""
        longest = max(
            (tenant for tenant in self._tenants.values() if tenant.queued),
            key=lambda tenant: (tenant.queued_tokens / tenant.weight, max(one.number for one in tenant.newest())),
        )
        return self.last_of(longest, now)

    def last_of(self, tenant: Tenant, now: float) -> Ticket:
        """Who of one tenant gives way."""
        return min(tenant.newest(), key=lambda ticket: (self._class(ticket, now), -ticket.number))

    def _class(self, ticket: Ticket, now: float, since: float = -math.inf) -> int:
        return ticket.priority + int((now - max(ticket.arrived, since)) / self._ageing_seconds)

    def _owed_class(self, tenant: Tenant, now: float) -> int:
        """The highest class of a tenant's requests, aged from when the tenant was owed them."""
        owed_since = self._virtual.reached(tenant.start)
        since = now if owed_since is None else owed_since
        return max(self._class(ticket, now, since) for ticket in tenant.oldest())

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
