"""Thousands of requests through the policy: who waits how long, what is computed twice, how much is copied."""

from __future__ import annotations

import random
from array import array
from bisect import bisect, insort
from collections import deque

import pytest

from model_worker.batching.continuous_batch import ContinuousBatch
from model_worker.batching.row_events import FinishedEvent
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.batching.token_stream import TokenStream
from model_worker.sequence import RowParams
from tests.model_worker.batching.counting_engine import CountingEngine
from tests.model_worker.batching.simulated_worker import SimulatedRow, SimulatedWorker, Traffic, log_uniform

LIMITS = SchedulerLimits()
# Three times what the worker can do, with one prompt in a hundred that takes half of its memory.
OVERLOAD = Traffic(prompts=(16, 512), outputs=(8, 100), huge_prompt=2000, rows_per_step=2.5)


@pytest.fixture(scope="module", params=[1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def overloaded(request: pytest.FixtureRequest) -> tuple[SimulatedWorker, list[SimulatedRow]]:
    worker, rows = SimulatedWorker(LIMITS, arena_tokens=4096), OVERLOAD.rows(request.param)
    worker.run(rows)
    return worker, rows


Overloaded = tuple[SimulatedWorker, list[SimulatedRow]]


def test_each_of_thousands_of_requests_ends_and_no_memory_is_lost(overloaded: Overloaded) -> None:
    worker, rows = overloaded
    assert all(row.ended_at is not None for row in rows)
    assert worker.used_tokens == 0
    assert worker.drawn_tokens == sum(row.last_length - row.prompt_tokens for row in rows)


def test_nobody_sees_more_than_a_bounded_number_of_younger_rows_go_first(overloaded: Overloaded) -> None:
    """For huge rows among small ones and for small ones behind huge ones the bound is the same."""
    admitted: list[int] = []
    most = 0
    for row in sorted(overloaded[1], key=lambda row: (row.admitted_at, row.arrival)):
        most = max(most, len(admitted) - bisect(admitted, row.arrival))
        insort(admitted, row.arrival)
    assert most <= LIMITS.look_ahead
    assert max(row.overtaken for row in overloaded[1]) == LIMITS.look_ahead, "the bound was put to the test"


def test_a_huge_row_waits_hardly_longer_than_the_small_ones_around_it_and_they_hardly_longer_for_it(
    overloaded: Overloaded,
) -> None:
    """First come, first served: whatever its size, a row waits about as long as its neighbours in line."""
    rows = overloaded[1]
    huge = [row for row in rows[1:-1] if row.prompt_tokens == OVERLOAD.huge_prompt]
    assert len(huge) >= 5
    for row in huge:
        before, behind = waited(rows[row.arrival - 1]), waited(rows[row.arrival + 1])
        assert waited(row) <= before + 250, "measured: 151"
        assert behind <= before + 250


def test_hardly_anything_is_computed_twice_and_nobody_gives_way_again_and_again(overloaded: Overloaded) -> None:
    worker, rows = overloaded
    assert worker.recomputed_tokens <= 0.01 * worker.computed_tokens
    assert max(row.given_way for row in rows) <= 3


def waited(row: SimulatedRow) -> int:
    """Steps until it was first admitted."""
    assert row.admitted_at is not None
    return row.admitted_at - row.arrived_at


def test_growing_and_replaying_beats_reserving_the_worst_case() -> None:
    """Callers allow more than outputs take: here each output is somewhere between nothing and all it may be."""
    traffic = Traffic(rows_per_step=0.6, ends_early=True)
    steps = {}
    for growth_tokens in (LIMITS.growth_tokens, 10**9):
        # Prompts go fast, so that what is compared is how many rows decode at once.
        limits = SchedulerLimits(max_num_batched_tokens=512, growth_tokens=growth_tokens)
        worker = SimulatedWorker(limits, arena_tokens=8192)
        worker.run(traffic.rows(500))
        steps[growth_tokens] = worker.steps
    assert steps[LIMITS.growth_tokens] < 0.9 * steps[10**9]


# The arena.


class Callers:
    """Keep so many requests going: new prompts, prompts that share a system prompt, and conversations that go on."""

    def __init__(self, batch: ContinuousBatch, *, sharing: float, seed: int = 5) -> None:
        self.batch = batch
        self.cached_tokens = self.prompt_tokens = self.finished = 0
        self._draw = random.Random(seed)
        self._sharing = sharing
        self._systems = [self._new_ids(log_uniform(self._draw, 50, 1000)) for _ in range(8)]
        self._conversations: deque[array[int]] = deque(maxlen=100)
        self._live: dict[TokenStream, array[int]] = {}

    def run(self, requests: int, in_flight: int) -> None:
        for started in range(requests):
            while len(self._live) >= in_flight:
                self._step()
            self._start(float(started))
        while self._live:
            self._step()

    def _start(self, now: float) -> None:
        ids, params = self._prompt(), RowParams(max_new_tokens=log_uniform(self._draw, 8, 512))
        stream = TokenStream([params.max_new_tokens])
        self._live[stream] = ids
        self.prompt_tokens += len(ids)
        self.batch.add(stream, [(ids, params)], now)

    def _prompt(self) -> array[int]:
        kind = self._draw.random()
        if kind < self._sharing / 2 and self._conversations:
            return (self._draw.choice(self._conversations) + self._new_ids(30))[-6000:]
        if kind < self._sharing:
            return self._draw.choice(self._systems) + self._new_ids(log_uniform(self._draw, 8, 300))
        return self._new_ids(6000 if self._draw.random() < 0.01 else log_uniform(self._draw, 16, 1024))

    def _new_ids(self, count: int) -> array[int]:
        return array("i", (self._draw.randrange(1000, 100_000) for _ in range(count)))

    def _step(self) -> None:
        self.batch.compute(self.batch.plan())
        for stream in [one for one in self._live if one in self.batch.touched]:
            for event in stream._unread():
                if isinstance(event, FinishedEvent):
                    self.cached_tokens += event.usage.cached_prompt_tokens
                    self.finished += 1
                    self._conversations.append(self._live.pop(stream))
                else:
                    self._live[stream].extend(event.ids)
        self.batch.touched.clear()


@pytest.mark.parametrize(
    ("arena_tokens", "caching", "moved_bound"),
    [
        (90_000, True, 1.0),
        (16_384, False, 12.0),
        pytest.param(90_000, False, 0.2, marks=pytest.mark.slow),
        pytest.param(32_768, True, 3.0, marks=pytest.mark.slow),
        pytest.param(16_384, True, 40.0, marks=pytest.mark.slow),
    ],
)
def test_gathering_gaps_copies_few_tokens_for_each_one_drawn(
    arena_tokens: int, caching: bool, moved_bound: float
) -> None:
    """Measured: 0.3, 6, 0.02, 2 and 21. 16,384 tokens hold less than three of the longest rows, and 32 are in flight.

    A token drawn costs as much as a few hundred copied.
    """
    engine = CountingEngine(arena_tokens, context_length=8192)
    batch = ContinuousBatch(engine, LIMITS, lambda: float(engine.steps), enable_prefix_caching=caching)
    callers = Callers(batch, sharing=0.6 if caching else 0.0)
    callers.run(requests=300, in_flight=32)
    assert callers.finished == 300
    assert batch.arena.moved_tokens <= moved_bound * engine.drawn_tokens
    assert batch.arena.used_tokens == 0
    if caching:
        assert callers.cached_tokens >= 0.15 * callers.prompt_tokens
        assert 0 < batch.arena.kept_tokens <= arena_tokens
