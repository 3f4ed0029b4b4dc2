"""Proof before readiness: what the engine computes, ragged and in chunks, is what the model itself computes.

A model may claim support for the attention interface and still mix the sequences of a step (state-space or convolution
layers), ignore a window, or lose what the engine passes. Such a model is refused by name, not served wrongly.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from model_worker.engine import Segment
from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.sequence import Extent, RowParams, Sequence
from model_worker.torch_engine.direct_calls import uncompiled
from model_worker.torch_engine.transformers_engine import TransformersEngine
from rpc.seeds import number

# Root mean square of the difference of two logit vectors over their spread: the rounding of a sound model on the left
# of the bound, anything from 0.5 to 2 where a token too many or too few was seen.
_TOLERANCE = {"float64": 1e-5, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
# Where the two prompts are cut: chunks beside chunks, a chunk beside a single token, and single tokens at the end.
_CUTS = ((0, 10, 17, 20, 21), (0, 5, 32, 33, 34))
_EXTENT = 64  # tokens
SELF_TEST_TOKENS = len(_CUTS) * _EXTENT  # what the storage has to hold for it


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """The largest deviation of either prompt, and what was allowed."""

    deviation: float
    tolerance: float


def self_test(engine: TransformersEngine, model: PreTrainedModel) -> SelfTestResult:
    """Compare `engine` with the eager forward pass of its `model` on two prompts. Uses the storage's first tokens.

    The prompts are computed side by side for each adapter and the next one, the base model among them, so that rows of
    one that reach another are found. Errors: UnsupportedModelError when they differ by more than the dtype explains, or
    are not numbers; OutOfMemory.
    """
    names = ["", *engine.spec.adapters]
    tolerance = _TOLERANCE[engine.spec.dtype]
    largest = 0.0
    for adapters in zip(names, names[1:] + names[:1], strict=True):
        deviation = _largest_deviation(engine, model, adapters)
        if not deviation <= tolerance:  # also when it is NaN
            raise UnsupportedModelError(
                f"{_named(model, adapters)} failed the self-test: ragged and alone it differs by {deviation:.2g}, "
                f"where {engine.spec.dtype} explains {tolerance:.2g}"
            )
        largest = max(largest, deviation)
    return SelfTestResult(largest, tolerance)


def _largest_deviation(engine: TransformersEngine, model: PreTrainedModel, adapters: tuple[str, ...]) -> float:
    """Compute one prompt with each of `adapters`, both ways, and return the larger deviation."""
    rows = [
        Sequence(
            RowParams(adapter=adapter),
            array("i", _prompt(index, cuts[-1], engine.spec.vocabulary_size)),
            prompt_tokens=cuts[-1],
            extent=Extent(index * _EXTENT, _EXTENT),
        )
        for index, (adapter, cuts) in enumerate(zip(adapters, _CUTS, strict=True))
    ]
    expected = [_eager_logits(engine, model, row) for row in rows]
    # Other content first, in the same extents: what is left of it must not be seen.
    strangers = [Sequence(row.params, row.ids[::-1], len(row.ids), extent=row.extent) for row in rows]
    engine.last_logits([Segment(row, 0, len(row.ids), draws=False) for row in strangers])
    computed = _in_chunks(engine, rows)
    if computed[0].shape[0] != engine.spec.vocabulary_size:
        raise UnsupportedModelError(
            f"{type(model).__name__} has {engine.spec.vocabulary_size} embeddings and {computed[0].shape[0]} logits"
        )
    for row in rows:
        assert row.extent is not None
        engine.clear_kv(row.extent)
    return max(_deviation(logits, wanted) for logits, wanted in zip(computed, expected, strict=True))


def _named(model: PreTrainedModel, adapters: tuple[str, ...]) -> str:
    named = [repr(adapter) for adapter in adapters if adapter]
    return type(model).__name__ + (f" with adapter {' and '.join(named)}" if named else "")


def _prompt(seed: int, length: int, vocabulary: int) -> list[int]:
    return [int(number(seed, position) * vocabulary) for position in range(length)]


def _eager_logits(engine: TransformersEngine, model: PreTrainedModel, row: Sequence) -> torch.Tensor:
    """Return the model's own last logits for `row` alone ([vocabulary], float64), by its plainest attention."""
    ids = torch.tensor([row.ids], device=model.device)
    alone = [Segment(row, 0, len(row.ids), draws=False)]
    attention = model.config._attn_implementation  # noqa: SLF001 - transformers has no public getter
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode(), uncompiled(model), engine.lora.during(alone, kept=alone):
            output = model(input_ids=ids, use_cache=False, logits_to_keep=1)
    finally:
        model.set_attn_implementation(attention)
    logits: torch.Tensor = output.logits[0, -1].double()
    return logits


def _in_chunks(engine: TransformersEngine, rows: list[Sequence]) -> list[torch.Tensor]:
    """Return the engine's last logits of each row, all rows in every step."""
    logits = torch.empty(0)
    for ends in zip(*(cuts[1:] for cuts in _CUTS), strict=True):
        segments = [
            Segment(row, row.computed, end - row.computed, draws=False) for row, end in zip(rows, ends, strict=True)
        ]
        logits = engine.last_logits(segments)
        for row, end in zip(rows, ends, strict=True):
            row.computed = end
    return list(logits.double())


def _deviation(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits - expected).square().mean().sqrt() / expected.std())
