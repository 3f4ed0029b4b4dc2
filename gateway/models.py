"""What the gateway knows about a served model: as its workers describe it, with the defaults that hold here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.generation import Sampling


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model. `effective_sampling` maps what a caller gave to what holds after all defaults (contract: Sampling)."""

    name: str
    context_length: int
    vocabulary_size: int
    vocabulary_fingerprint: str
    eos_token_ids: tuple[int, ...]
    quantization: str
    effective_sampling: Callable[[Sampling], Sampling]
    default_max_new_tokens: int

    def max_new_tokens(self, wanted: int | None, prompt_tokens: int) -> int:
        """The bound of one output: what was asked for or the default, but never past the context."""
        left = self.context_length - prompt_tokens
        return min(left, self.default_max_new_tokens if wanted is None else wanted)
