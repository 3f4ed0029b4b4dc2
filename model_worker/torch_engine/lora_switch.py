"""Says whose adapter each row of a step gets, to all LoRA layers of one model at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from model_worker.engine import Segment
from model_worker.torch_engine.lora_linear import LoraLinear, LoraRows
from model_worker.torch_engine.opaque_operator import OpaqueOperator


class LoraSwitch:
    """Makes the LoRA layers of one model and tells them whose rows they get. Owned by the engine."""

    def __init__(self) -> None:
        self._tokens = LoraRows()  # of the layers inside the model: every token of the step
        self._drawn = LoraRows()  # of the output head: only the tokens whose logits are wanted
        self._layers: list[LoraLinear] = []
        self._operator = OpaqueOperator(
            "add_lora", "(Tensor(a!) out, Tensor x, Tensor layer) -> ()", self._add, lambda *_: None
        )

    def layer(self, base: nn.Module, *, is_head: bool) -> LoraLinear:
        """Return a layer that adds to `base` what the adapters given to it say."""
        rows = self._drawn if is_head else self._tokens
        layer = LoraLinear(base, rows, len(self._layers), self._operator.call)
        self._layers.append(layer)
        return layer

    @contextmanager
    def during(self, segments: Sequence[Segment], kept: Sequence[Segment]) -> Iterator[None]:
        """Compute the rows of `segments` with their adapters until the end of the block.

        `kept` names the segment of each row that the output head gets.
        """
        if not any(segment.sequence.params.adapter for segment in segments):
            yield
            return
        self._tokens.set(segments, [segment.length for segment in segments])
        self._drawn.set(kept, [1] * len(kept))
        try:
            yield
        finally:
            self._tokens.clear()
            self._drawn.clear()

    def close(self) -> None:
        """Let the layers go."""
        self._layers.clear()
        self._operator.close()

    def _add(self, out: torch.Tensor, x: torch.Tensor, number: torch.Tensor) -> None:
        layer = self._layers[int(number)]
        if layer.has_rows:
            layer.add_pairs(out, x)


def by_adapter(segments: Sequence[Segment]) -> list[int]:
    """The order of `segments` in which those of one adapter stand together; otherwise their own order."""
    return sorted(range(len(segments)), key=lambda index: segments[index].sequence.params.adapter)
