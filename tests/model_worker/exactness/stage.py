"""An engine with as much room and memory as a schedule says, and a kernel that can be exchanged between schedules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from model_worker.engine import Engine, EngineSpec, Outcome, OutOfMemory, Segment

if TYPE_CHECKING:
    import torch

    from model_worker.sequence import Extent
    from model_worker.torch_engine.attention.kernel import AttentionKernel, Heads, Options
    from model_worker.torch_engine.kv_storage import LayerStorage
    from model_worker.torch_engine.step_layout import StepLayout


class Kernels:
    """Several attention kernels in the place of one: the chosen one computes."""

    def __init__(self, kernels: Mapping[str, AttentionKernel]) -> None:
        self.names = list(kernels)
        self.chosen = self.names[0]
        self._kernels = kernels

    def __call__(self, heads: Heads, store: LayerStorage, layout: StepLayout, options: Options) -> torch.Tensor:
        return self._kernels[self.chosen](heads, store, layout, options)


class Stage:
    """Implements `Engine` for one schedule, with a spec of its own, over an engine that outlives it.

    The arena is as another schedule left it: whatever stands there must not matter. `refused_steps` and
    `refused_copies` name the calls, from 1, that run out of memory before they change anything.
    """

    def __init__(
        self,
        engine: Engine,
        spec: EngineSpec,
        refused_steps: Collection[int] = (),
        refused_copies: Collection[int] = (),
    ) -> None:
        assert spec.kv_capacity_tokens <= engine.spec.kv_capacity_tokens
        self.spec = spec
        self._engine = engine
        self._refused_steps = refused_steps
        self._refused_copies = refused_copies
        self._steps = 0
        self._copies = 0
        self.seen: set[str] = set()

    def step(self, segments: Sequence[Segment]) -> list[Outcome]:
        self._steps += 1
        if self._steps in self._refused_steps:
            self.seen.add("refused")
            raise OutOfMemory
        if len(segments) > 1:
            self.seen.add("mixed")
        if any(not segment.draws for segment in segments):
            self.seen.add("chunked")
        return self._engine.step(segments)

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        self._copies += 1
        if self._copies in self._refused_copies:
            self.seen.add("refused")
            raise OutOfMemory
        self._engine.copy_kv(source, target, tokens)

    def clear_kv(self, extent: Extent) -> None:
        self._engine.clear_kv(extent)

    def close(self) -> None:
        """The engine goes on."""
