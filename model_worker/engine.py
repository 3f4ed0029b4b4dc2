"""The seam between policy and tensors: what the generation loop asks of any engine. No torch here."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, field
from typing import Protocol

from model_worker.sequence import Extent, Sequence


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What the model's own generation_config.json says; None where that file is silent."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is and can hold; fixed once it is loaded."""

    vocabulary_size: int  # ids are in [0, vocabulary_size)
    context_length: int  # tokens: prompt + generated
    kv_capacity_tokens: int  # size of the arena
    kv_bytes_per_token: int
    eos_token_ids: frozenset[int]
    device: str
    dtype: str
    quantization: str
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence, computed in one step: `sequence.ids[start : start + length]`.

    `sequence.extent` already covers `start + length` tokens, and K/V of `[0, start)` stand there.
    `draws` is true when the segment ends with the last known token: the step then draws the next one.
    """

    sequence: Sequence
    start: int
    length: int
    draws: bool


@dataclass(frozen=True, slots=True)
class Draw:
    """The token drawn for one segment."""

    token_id: int


@dataclass(frozen=True, slots=True)
class RowFailure:
    """One row cannot go on (for example: its logits are not numbers). The others of the step are not affected."""

    reason: str  # UPPER_SNAKE_CASE, stable
    message: str  # one sentence for the caller; no paths, no repr


class OutOfMemory(Exception):  # noqa: N818 - the field's name for it
    """A step needed more memory than there is; nothing was changed, a smaller step may pass."""


class Engine(Protocol):
    """Computes steps over a K/V arena. Called from one thread only, the generation thread, which owns it.

    Any exception other than OutOfMemory means that the engine is broken and the process has to end.
    """

    @property
    def spec(self) -> EngineSpec:
        """What this engine is."""
        ...

    def step(self, segments: collections.abc.Sequence[Segment]) -> list[Draw | RowFailure | None]:
        """Compute all `segments` as one ragged batch and draw one token for each that `draws`.

        Returns one entry per segment, in order: a Draw or a RowFailure where the segment draws (a RowFailure may
        also answer a segment that does not draw), else None.

        Errors: OutOfMemory.
        """
        ...

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        """Copy the K/V of the first `tokens` tokens of `source` to the start of `target`. The extents may overlap."""
        ...

    def clear_kv(self, extent: Extent) -> None:
        """Zero `extent`: a row failed there, and a masked NaN would still poison a neighbour."""
        ...

    def close(self) -> None:
        """Free what the engine holds. The engine is not used afterwards."""
        ...
