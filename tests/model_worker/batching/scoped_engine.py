"""The fake engine with a label on every K/V: whose adapter and salt it was computed for. And copies that may fail."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from model_worker.engine import Outcome, OutOfMemory, Segment
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault
from model_worker.sequence import Extent

Label = tuple[str, str]


class ScopedEngine(FakeEngine):
    """Asserts that a row never builds on the K/V of another adapter or salt.

    `failing_copies` names the copies, counted from 1, that run out of memory when half of them is done.
    """

    def __init__(self, model: FakeModel, *faults: Fault, failing_copies: Collection[int] = ()) -> None:
        super().__init__(model, *faults)
        self._labels: list[Label | None] = [None] * model.kv_capacity_tokens
        self._failing_copies = failing_copies
        self.copies = 0
        self.computed_tokens = 0

    def step(self, segments: Sequence[Segment]) -> list[Outcome]:
        outcomes = super().step(segments)
        for segment in segments:
            params, extent = segment.sequence.params, segment.sequence.extent
            assert extent is not None
            own = (params.adapter, params.cache_salt)
            end = extent.start + segment.start
            assert all(label == own for label in self._labels[extent.start : end]), "built on another's K/V"
            self._labels[end : end + segment.length] = [own] * segment.length
            self.computed_tokens += segment.length
        return outcomes

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        self.copies += 1
        if self.copies in self._failing_copies:
            super().copy_kv(source, target, (tokens + 1) // 2)
            self.clear_kv(Extent(target.start, (tokens + 1) // 2))
            raise OutOfMemory
        super().copy_kv(source, target, tokens)
        self._labels[target.start : target.start + tokens] = self._labels[source.start : source.start + tokens]
