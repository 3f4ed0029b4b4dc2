"""What the gateway knows about a served model: as its workers describe it, with the defaults that hold here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.generation import Sampling


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the ready workers of a model hold at once, together."""

    workers: int
    rows: int
    kv_tokens: int

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(self.workers + other.workers, self.rows + other.rows, self.kv_tokens + other.kv_tokens)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model, or an adapter served beside one, which differs from it in its name.

    `effective_sampling` maps what a caller gave to what holds after all defaults (contract: SamplingParams).
    """

    name: str
    base: str  # the name of the model whose tokenizer it has: its own, unless it is an adapter
    context_length: int
    vocabulary_size: int
    vocabulary_fingerprint: str
    eos_token_ids: tuple[int, ...]
    quantization: str
    effective_sampling: Callable[[Sampling], Sampling]
    default_max_new_tokens: int

    @property
    def is_adapter(self) -> bool:
        """Whether it is served beside another model."""
        return self.name != self.base

    def wanted_new_tokens(self, asked_for: int | None) -> int:
        """The bound of an output that was asked for, or the default."""
        return self.default_max_new_tokens if asked_for is None else asked_for

    def max_new_tokens(self, asked_for: int | None, prompt_tokens: int) -> int:
        """The bound that is effective: never past the context."""
        return min(self.context_length - prompt_tokens, self.wanted_new_tokens(asked_for))
