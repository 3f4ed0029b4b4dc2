"""A batch over the fake engine, or any, driven step by step without a thread: every schedule is deterministic."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import pytest

from model_worker.batching.continuous_batch import ContinuousBatch
from model_worker.batching.load import LoadSnapshot
from model_worker.batching.row_events import FinishedEvent
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.batching.token_stream import TokenStream
from model_worker.engine import Engine
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault
from model_worker.sequence import FinishReason, RowParams
from tests.model_worker.generation_support import Heard, expected

MODEL = FakeModel(vocabulary_size=50, context_length=80, kv_capacity_tokens=200, eos_token_ids=frozenset({0}))
LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=8, growth_tokens=4, look_ahead=2)
Rows = list[tuple["array[int]", RowParams]]


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """A batch with its requests and what was heard of each."""

    def __init__(
        self,
        *faults: Fault,
        model: FakeModel = MODEL,
        limits: SchedulerLimits = LIMITS,
        engine: Engine | None = None,
        enable_prefix_caching: bool = True,
    ) -> None:
        self.clock = Clock()
        self.model = model
        engine = engine or FakeEngine(model, *faults)
        self.capacity = engine.spec.kv_capacity_tokens
        self.batch = ContinuousBatch(engine, limits, self.clock, enable_prefix_caching=enable_prefix_caching)
        self.requests: list[tuple[TokenStream, Rows, Heard]] = []

    def add(self, *rows: tuple[array[int], RowParams]) -> int:
        stream = TokenStream(max(0, params.max_new_tokens - params.generated_prefix) for _, params in rows)
        self.batch.add(stream, rows, self.clock.now)
        self.requests.append((stream, list(rows), Heard()))
        return len(self.requests) - 1

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            if work := self.batch.plan():
                self.batch.compute(work)
            self.clock.now += 1.0

    def run(self) -> None:
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[int]:
        for step in range(100_000):
            if not self.batch:
                return
            self.step()
            yield step
        pytest.fail("rows do not come to their end")

    def stream(self, request: int) -> TokenStream:
        return self.requests[request][0]

    def heard(self, request: int) -> Heard:
        stream, _, heard = self.requests[request]
        heard.take(stream._unread())
        return heard

    def load(self) -> LoadSnapshot:
        return self.batch.load()

    def cached_tokens(self, request: int = 0) -> list[int]:
        """Of each row's prompt, what was not computed."""
        return [
            self.heard(request).ends[row].usage.cached_prompt_tokens for row in range(len(self.requests[request][1]))
        ]

    def expect(self, request: int, row: int = 0) -> tuple[list[int], FinishReason]:
        ids, params = self.requests[request][1][row]
        return expected(ids, params, self.model)

    def check_complete(self, request: int) -> None:
        heard = self.heard(request)
        for row in range(len(self.requests[request][1])):
            end = heard.ends[row]
            assert isinstance(end, FinishedEvent)
            assert (heard.tokens[row], end.reason) == self.expect(request, row)

    def check_empty(self) -> None:
        load = self.load()
        assert (load.running, load.waiting, load.queued_prompt_tokens, load.kv_tokens_used) == (0, 0, 0, 0)
        assert self.batch.arena.free_tokens == self.capacity
        assert self.batch.ended_rows == sum(len(rows) for _, rows, _ in self.requests)
