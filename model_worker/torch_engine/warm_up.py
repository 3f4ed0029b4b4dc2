"""One step of every kind there will be, before there are requests: what is compiled or allocated once, is so here."""

from __future__ import annotations

from array import array

from model_worker.engine import Segment
from model_worker.sequence import Extent, RowParams, Sequence
from model_worker.torch_engine.transformers_engine import TransformersEngine

# Tokens of each row in a step: torch makes code of its own for a single token and a single row of logits.
_STEPS = ((1,), (1, 1), (16,), (16, 1, 1))
_EXTENT = 32  # tokens
WARM_UP_TOKENS = max(len(step) for step in _STEPS) * _EXTENT  # what the storage has to hold for it


def warm_up(engine: TransformersEngine) -> None:
    """Compute the steps in the storage's first tokens, then clear them. Errors: those of the model, OutOfMemory."""
    for step in _STEPS:
        rows = [
            Sequence(RowParams(), array("i", [0] * length), length, extent=Extent(place * _EXTENT, _EXTENT))
            for place, length in enumerate(step)
        ]
        engine.last_logits([Segment(row, 0, len(row.ids), draws=True) for row in rows])
    engine.clear_kv(Extent(0, WARM_UP_TOKENS))
