"""An engine that computes nothing and counts: what a schedule costs, thousands of rows in a second."""

from __future__ import annotations

from collections.abc import Sequence

from model_worker.engine import Draw, EngineSpec, Outcome, Segment
from model_worker.sequence import Extent


class CountingEngine:
    """Implements `Engine`. Each row draws its place in the step: no two rows go on alike."""

    def __init__(self, kv_capacity_tokens: int, context_length: int) -> None:
        self.spec = EngineSpec(100_000, context_length, kv_capacity_tokens, 1, frozenset(), "cpu", "none", "none")
        self.steps = 0
        self.computed_tokens = 0
        self.drawn_tokens = 0
        self.copied_tokens = 0
        self.largest_copy_tokens = 0  # between two steps
        self._copied_since_step = 0

    def step(self, segments: Sequence[Segment]) -> list[Outcome]:
        self.steps += 1
        self.computed_tokens += sum(segment.length for segment in segments)
        self.drawn_tokens += sum(segment.draws for segment in segments)
        self.largest_copy_tokens = max(self.largest_copy_tokens, self._copied_since_step)
        self._copied_since_step = 0
        return [Draw(place) if segment.draws else None for place, segment in enumerate(segments)]

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        assert tokens <= min(source.capacity, target.capacity)
        self.copied_tokens += tokens
        self._copied_since_step += tokens

    def clear_kv(self, extent: Extent) -> None:
        """Nothing is stored."""

    def close(self) -> None:
        """Nothing is held."""
