"""A model's workers and its callers on a clock of their own: what the lane makes of them over minutes, in no time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.admission.lane import Lane, Refused
from gateway.admission.limits import Limits, Room
from gateway.admission.ticket import Ticket
from gateway.admission.work import Work

Draw = random.Random


@dataclass
class Caller:
    """Sends a request `every` so many seconds on average, at random moments."""

    tenant: str
    every: float
    tokens: Callable[[Draw], int] = lambda draw: draw.randint(50, 150)
    priority: int = 0
    begins: float = 0.0


@dataclass
class Record:
    """What became of the requests."""

    waits: dict[Ticket, float] = field(default_factory=dict)  # of those that were started, in seconds
    refused: list[tuple[float, Refused]] = field(default_factory=list)
    lane: Lane = field(default_factory=lambda: Lane(Limits()))

    def tokens(self, tenant: str, before: float) -> int:
        """Of what was started for a tenant before a moment."""
        early = (one for one, wait in self.waits.items() if one.arrived + wait < before)
        return sum(one.work.tokens for one in early if one.tenant == tenant)

    def waits_of(self, tenant: str) -> list[float]:
        return [wait for one, wait in self.waits.items() if one.tenant == tenant]


def served(
    callers: list[Caller],
    seconds: float,
    limits: Limits | None = None,
    places: int = 4,
    tokens_per_second: float = 100.0,
    seed: int = 1,
) -> Record:
    """Serve `callers`: in each of the `places` so many tokens per second. Ends when all that was accepted has ended."""
    draw, order = random.Random(seed), itertools.count()
    record = Record(lane=Lane(limits or Limits()))
    lane, room = record.lane, Room(places, 10**9, 10**9)
    events: list[tuple[float, int, Callable[[float], None]]] = []

    def at(moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(events, (moment, next(order), happen))

    def begin(started: Iterator[Ticket], now: float) -> None:
        for one in started:
            record.waits[one] = now - one.arrived
            at(now + one.work.tokens / tokens_per_second, lambda then, one=one: end(one, then))

    def end(one: Ticket, now: float) -> None:
        lane.leave(one, now)
        begin(lane.started(room, now), now)

    def come(caller: Caller, now: float) -> None:
        one = Ticket("tiny", caller.tenant, caller.priority, Work(1, caller.tokens(draw)))
        begin(lane.arrive(one, room, now), now)
        if not one.is_started:
            record.refused += [(now, refused) for refused in lane.refused(one, room, now)]
        if (then := now + draw.expovariate(1 / caller.every)) < seconds:
            at(then, lambda then: come(caller, then))

    for caller in callers:
        at(caller.begins, lambda then, caller=caller: come(caller, then))
    while events:
        now, _, happen = heapq.heappop(events)
        happen(now)
    return record


def last_starts(record: Record, refusals: Iterator[tuple[float, Refused]]) -> Iterator[tuple[float, float]]:
    """For each refusal how long it was told to wait, and how long what then waited took to be started."""
    starts = {one: one.arrived + wait for one, wait in record.waits.items()}
    for now, refused in refusals:
        waiting = [then for one, then in starts.items() if one.arrived <= now < then]
        yield refused.retry_after_seconds, max(waiting) - now
