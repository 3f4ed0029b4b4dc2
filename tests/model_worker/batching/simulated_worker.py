"""The scheduler alone, with an arena that is nothing but a number: thousands of requests in a second."""

from __future__ import annotations

import random
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

from model_worker.batching.scheduler import RunningRow, SchedulerLimits, WaitingRow, schedule


@dataclass(slots=True, eq=False)
class SimulatedRow:
    """A row: its place in line, its length at arrival, now and at its end, and what became of it."""

    arrival: int
    arrived_at: int  # step
    known: int
    last_length: int  # so many ids end it
    most_length: int = 0  # so many it might have had, for all the scheduler knows; 0: as many
    prompt_tokens: int = 0
    computed: int = 0
    capacity: int = 0
    overtaken: int = 0
    admitted_at: int | None = None  # first time
    ended_at: int | None = None
    given_way: int = 0  # times

    def __post_init__(self) -> None:
        self.prompt_tokens = self.known
        self.most_length = self.most_length or self.last_length


@dataclass
class SimulatedWorker:
    """Advances rows as the batch does, and checks after each step what must always hold."""

    limits: SchedulerLimits
    arena_tokens: int
    running: list[SimulatedRow] = field(default_factory=list)
    waiting: list[SimulatedRow] = field(default_factory=list)
    steps: int = 0
    drawn_tokens: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    used_tokens: int = 0

    def step(self) -> None:
        considered = self.waiting[: self.limits.max_num_seqs - len(self.running) + self.limits.look_ahead]
        plan = schedule(
            [RunningRow(row.known, row.computed, row.capacity, row.most_length - 1) for row in self.running],
            [WaitingRow(row.known, 0, row.most_length - 1, row.overtaken) for row in considered],
            self.arena_tokens - self.used_tokens,
            self.limits,
        )
        drawn_before = self.drawn_tokens
        oldest = min((rows[0] for rows in (self.running, self.waiting) if rows), key=attrgetter("arrival"))
        self._give_way(plan.preempted)
        chunks = 0
        for row, capacity, chunk in zip(self.running, plan.capacities, plan.chunks, strict=True):
            self.used_tokens += capacity - row.capacity
            row.capacity = capacity
            self._compute(row, chunk)
            chunks += chunk
        for admission in plan.admitted:
            row = considered[admission.position]
            self._admit(row, admission.capacity)
            self._compute(row, admission.chunk)
            chunks += admission.chunk
            for older in considered[: admission.position]:
                older.overtaken += older.capacity == 0
        assert 0 < chunks <= self.limits.max_num_batched_tokens
        assert len(self.running) <= self.limits.max_num_seqs
        assert sum(row.capacity for row in self.running) == self.used_tokens <= self.arena_tokens
        assert oldest.ended_at is not None or oldest.capacity or self.drawn_tokens > drawn_before or self.running
        self._end()
        self.steps += 1

    def _give_way(self, rows: int) -> None:
        for _ in range(rows):
            row = self.running.pop()
            self.used_tokens -= row.capacity
            self.recomputed_tokens += row.computed
            row.computed = row.capacity = 0
            row.given_way += 1
            insort(self.waiting, row, key=attrgetter("arrival"))

    def _admit(self, row: SimulatedRow, capacity: int) -> None:
        self.waiting.remove(row)
        insort(self.running, row, key=attrgetter("arrival"))
        row.capacity = capacity
        self.used_tokens += capacity
        if row.admitted_at is None:
            row.admitted_at = self.steps

    def _compute(self, row: SimulatedRow, chunk: int) -> None:
        row.computed += chunk
        self.computed_tokens += chunk
        assert row.computed <= row.capacity <= row.most_length - 1
        if row.computed == row.known:
            row.known += 1
            self.drawn_tokens += 1

    def _end(self) -> None:
        for row in self.running:
            if row.known == row.last_length:
                row.ended_at = self.steps
                self.used_tokens -= row.capacity
        self.running = [row for row in self.running if row.ended_at is None]

    def run(self, rows: list[SimulatedRow]) -> None:
        """Serve `rows`, in order of arrival, to the end of all."""
        coming = deque(rows)
        while coming or self.running or self.waiting:
            if not (self.running or self.waiting):
                self.steps = max(self.steps, coming[0].arrived_at)
            while coming and coming[0].arrived_at <= self.steps:
                self.waiting.append(coming.popleft())
            self.step()
            assert self.steps < 10_000_000, "rows do not come to their end"


@dataclass(frozen=True)
class Traffic:
    """Mixed lengths, in tokens: log-uniform prompts and outputs, and a share of huge prompts."""

    prompts: tuple[int, int] = (16, 1024)
    outputs: tuple[int, int] = (8, 512)
    huge_prompt: int = 6000
    huge_share: float = 0.01
    rows_per_step: float = 0.1
    ends_early: bool = False  # an output ends anywhere before what it was allowed
    seed: int = 7

    def rows(self, count: int) -> list[SimulatedRow]:
        draw = random.Random(self.seed)
        rows, now = [], 0.0
        for arrival in range(count):
            now += draw.expovariate(self.rows_per_step)
            prompt = self.huge_prompt if draw.random() < self.huge_share else log_uniform(draw, *self.prompts)
            allowed = log_uniform(draw, *self.outputs)
            output = draw.randint(1, allowed) if self.ends_early else allowed
            rows.append(SimulatedRow(arrival, int(now), prompt, prompt + output, prompt + allowed))
        return rows


def log_uniform(draw: random.Random, low: int, high: int) -> int:
    """A number between the two, small ones as likely as large ones by orders of magnitude."""
    return int(low * (high / low) ** draw.random())
