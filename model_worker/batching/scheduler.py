"""Which rows take part in the next step, and with how many tokens. Pure policy: numbers in, a decision out.

Rules, in the order in which they are applied:

1. Every running row keeps room for its next token. Where less is left than they need, the youngest rows give way (they
   are queued again and replayed from their own ids), never an older one: so the oldest row always advances.
2. Every decoding row gets its one token. Decoding never waits for prefill.
3. What is left of the step's token budget goes to rows in prefill, oldest first.
4. Waiting rows are admitted first come, first served, into free places, free tokens and free budget, but half a step
   of growth is left for each row that runs: an arena filled to the brim copies more than it computes. Rows behind one
   that does not fit may overtake it a bounded number of times; then the place is kept for it. No row is admitted in a
   step that had to preempt one.
"""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The bounds of one worker. Errors: ValueError when they contradict each other."""

    max_num_seqs: int = 32  # rows running at once
    max_num_batched_tokens: int = 256  # per step: bounds how long one step takes, and so the pause between tokens
    max_queue: int = 256  # rows that may wait beside those that run
    growth_tokens: int = 64  # an extent grows by so much: rarely enough to copy seldom, small enough to waste little
    look_ahead: int = 8  # rows that may overtake one that does not fit

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.growth_tokens) < 1 or min(self.max_queue, self.look_ahead) < 0:
            raise ValueError("max_num_seqs and growth_tokens are at least 1, max_queue and look_ahead at least 0")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must not be below max_num_seqs: every decoding row gets a token")


class RunningRow(NamedTuple):
    """A row that holds an extent. All numbers are tokens."""

    known: int  # prompt and generated so far
    computed: int  # of these, how many have their K/V
    capacity: int  # of its extent
    most: int  # K/V it can ever need


class WaitingRow(NamedTuple):
    """A row that holds nothing yet, or nothing any more. Its numbers are tokens, but for `overtaken`."""

    known: int
    shared: int  # of these, how many will be copied from another row
    most: int
    overtaken: int  # how many younger rows were admitted before it


class Admission(NamedTuple):
    """A waiting row that starts to run in this step."""

    position: int  # among the waiting rows
    capacity: int  # of the extent it gets
    chunk: int  # tokens it computes in this step


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step does. `capacities` and `chunks` have one entry per running row that stays."""

    preempted: int  # so many rows at the end of the running ones give way
    capacities: list[int]  # of each row's extent from now on
    chunks: list[int]  # tokens each row computes, 0 where the budget ended before it
    admitted: list[Admission]


def schedule(
    running: collections.abc.Sequence[RunningRow],
    waiting: collections.abc.Sequence[WaitingRow],
    free_tokens: int,
    limits: SchedulerLimits,
) -> Plan:
    """Decide the next step. Both row lists stand in order of arrival, oldest first.

    Precondition: each row's `most` fits into the arena, so that a row that is alone can always go on.
    """
    capacities, free_tokens = _grow(running, free_tokens, limits.growth_tokens)
    kept = running[: len(capacities)]
    chunks, budget = _share_budget(kept, limits.max_num_batched_tokens)
    preempted = len(running) - len(kept)
    admitted: list[Admission] = []
    if waiting and not preempted:
        free_tokens -= _reserve(running, capacities, limits.growth_tokens)
        admitted = _admit(waiting, _Room(limits.max_num_seqs - len(running), free_tokens, budget), limits)
    return Plan(preempted, capacities, chunks, admitted)


def extent_capacity(known: int, most: int, growth_tokens: int) -> int:
    """How large an extent a row with `known` tokens asks for: a step of growth more, never more than it can fill."""
    return min(known + growth_tokens, most)


def _grow(running: collections.abc.Sequence[RunningRow], free_tokens: int, growth_tokens: int) -> tuple[list[int], int]:
    """Capacities of the rows that stay, and the tokens left.

    Rows give way, from the end, only until those that stay have room for their known tokens. What is free then goes
    to those that asked, oldest first, up to a whole step of growth each.
    """
    lacking = [max(0, row.known - row.capacity) for row in running]
    needed, kept = sum(lacking), len(running)
    while needed > free_tokens:
        kept -= 1
        needed -= lacking[kept]
        free_tokens += running[kept].capacity
    free_tokens -= needed
    capacities: list[int] = []
    for row in running[:kept]:
        capacity = row.capacity
        if row.known > capacity:
            capacity = min(extent_capacity(row.known, row.most, growth_tokens), row.known + free_tokens)
            free_tokens -= capacity - row.known
        capacities.append(capacity)
    return capacities, free_tokens


def _reserve(running: collections.abc.Sequence[RunningRow], capacities: list[int], growth_tokens: int) -> int:
    """Tokens that rows which wait leave to those that run: half a step of growth each, as far as they can grow."""
    return sum(min(growth_tokens // 2, row.most - capacity) for row, capacity in zip(running, capacities, strict=True))


def _share_budget(rows: collections.abc.Sequence[RunningRow], budget: int) -> tuple[list[int], int]:
    """Tokens per row, and what is left of the budget: first one for each decoding row, then prefill by age."""
    missing = [row.known - row.computed for row in rows]
    decoding = missing.count(1)
    budget -= decoding
    if decoding == len(rows):
        return missing, budget
    chunks: list[int] = []
    for tokens in missing:
        chunk = tokens if tokens == 1 else min(tokens, budget)
        budget -= chunk if tokens > 1 else 0
        chunks.append(chunk)
    return chunks, budget


class _Room(NamedTuple):
    """What a step has left for rows that wait."""

    places: int
    tokens: int
    budget: int


def _admit(waiting: collections.abc.Sequence[WaitingRow], room: _Room, limits: SchedulerLimits) -> list[Admission]:
    places, free_tokens, budget = room
    overtakes = limits.look_ahead  # how many may still pass the rows that were left standing
    admitted: list[Admission] = []
    someone_stands = False
    for index, row in enumerate(waiting):
        if places == 0 or budget == 0 or (someone_stands and overtakes <= 0):
            break
        capacity = extent_capacity(row.known, row.most, limits.growth_tokens)
        if capacity > free_tokens:
            someone_stands = True
            overtakes = min(overtakes, limits.look_ahead - row.overtaken)
            continue
        chunk = min(row.known - row.shared, budget)
        admitted.append(Admission(index, capacity, chunk))
        places, free_tokens, budget = places - 1, free_tokens - capacity, budget - chunk
        overtakes -= someone_stands
    return admitted
