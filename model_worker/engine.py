"""The seam between policy and tensors: what the generation loop asks of any engine. No torch here."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

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
    compiled: bool = False  # its layers run as compiled code
    adapters: tuple[str, ...] = ()  # names of the LoRA adapters that a row may ask for


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
class TokenLogprob:
    """How probable a token was under the model: before temperature, penalties, bias and filters."""

    token_id: int
    logprob: float  # natural logarithm
    rank: int  # 1 for the most probable token; equals share the better rank
    alternatives: tuple[TokenLogprob, ...] = ()  # the most probable tokens here, best first; theirs are empty


@dataclass(frozen=True, slots=True)
class Draw:
    """The token drawn for one segment."""

    token_id: int
    logprob: TokenLogprob | None = None  # where the row asks for it
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # as in Scored: a segment may end a prompt and draw


@dataclass(frozen=True, slots=True)
class Scored:
    """A segment that draws nothing, of a row that asks for the log-probabilities of its prompt.

    One entry for each prompt token that *follows* a token of the segment: positions `[start + 1, start + length]`, as
    far as the prompt goes. So the chunks of a prompt together give all of it but the first token.
    """

    prompt_logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class RowFailure:
    """One row cannot go on (for example: its logits are not numbers). The others of the step are not affected."""

    reason: str  # UPPER_SNAKE_CASE, stable
    message: str  # one sentence for the caller; no paths, no repr


Outcome: TypeAlias = Draw | Scored | RowFailure | None


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

    def step(self, segments: collections.abc.Sequence[Segment]) -> list[Outcome]:
        """Compute all `segments` as one ragged batch and draw one token for each that `draws`.

        Returns one entry per segment, in order: a Draw or a RowFailure where the segment draws (a RowFailure may
        also answer a segment that does not draw), else Scored where the row wants its prompt's log-probabilities,
        else None.

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
