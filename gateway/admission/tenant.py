"""One tenant: what waits for it, and how far its share has been used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from gateway.admission.ticket import Ticket


class Tenant:
    """Owned by the fair queue, which moves its start tag."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.start = 0.0  # tag of what is started for it next
        self.inflight = 0
        self.queued = 0  # requests that wait, and their tokens:
        self.queued_tokens = 0
        self.waiting: dict[int, OrderedDict[Ticket, None]] = {}  # by class, in order of arrival

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing here."""
        return not (self.queued or self.inflight)

    @property
    def share(self) -> float:
        """How much of it waits, for its weight."""
        return self.queued_tokens / self.weight

    def add(self, ticket: Ticket) -> None:
        """Let it wait."""
        self.waiting.setdefault(ticket.priority, OrderedDict())[ticket] = None
        self.queued += 1
        self.queued_tokens += ticket.queued_tokens

    def remove(self, ticket: Ticket) -> None:
        """It does not wait any more."""
        tickets = self.waiting[ticket.priority]
        del tickets[ticket]
        if not tickets:
            del self.waiting[ticket.priority]
        self.queued -= 1
        self.queued_tokens -= ticket.queued_tokens

    def oldest(self) -> Iterator[Ticket]:
        """The first of each class."""
        return (next(iter(tickets)) for tickets in self.waiting.values())

    def newest(self) -> Iterator[Ticket]:
        """The last of each class."""
        return (next(reversed(tickets)) for tickets in self.waiting.values())
