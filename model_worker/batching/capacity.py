"""How long a row can become, and whether this worker could ever hold it. The servicer asks before it submits."""

from __future__ import annotations

from model_worker.batching.refusals import CapacityExceeded
from model_worker.engine import EngineSpec


def last_length(prompt_tokens: int, max_new_tokens: int, spec: EngineSpec) -> int:
    """How many ids (prompt and generated) a row may come to have."""
    return min(prompt_tokens + max_new_tokens, spec.context_length)


def check_capacity(prompt_tokens: int, max_new_tokens: int, spec: EngineSpec) -> None:
    """Refuse a row that could never run to its end, however empty the worker is.

    The last token a row draws is not computed any more, so it needs no K/V.

    Errors: CapacityExceeded.
    """
    needed = last_length(prompt_tokens, max_new_tokens, spec) - 1
    if needed > spec.kv_capacity_tokens:
        raise CapacityExceeded(needed, spec.kv_capacity_tokens)
