"""Refuses rotary embeddings whose frequencies change with the longest position of a step.

transformers chooses them once per forward pass. In a ragged step one long row would then change the others' results,
and a row's own keys would be turned by two different sets. Below the length at which they change they are constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_worker.loading.load_errors import UnsupportedModelError


def check_rope(config: Any, context_length: int) -> None:
    """Check the text `config` of a model that is to serve `context_length` tokens. Errors: UnsupportedModelError."""
    for parameters in _parameter_sets(getattr(config, "rope_parameters", None) or {}):
        kind = parameters.get("rope_type")
        if kind == "longrope":
            constant = parameters.get("original_max_position_embeddings", 0)
        elif kind == "dynamic":
            constant = config.max_position_embeddings
        else:
            continue
        if context_length > constant:
            raise UnsupportedModelError(
                f"{config.model_type} changes its rotary embedding ({kind}) beyond {constant} tokens: "
                f"give --max-model-len {constant} or less"
            )


def _parameter_sets(parameters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the one set of parameters that all layers share, or one per kind of layer."""
    per_kind = [value for value in parameters.values() if isinstance(value, Mapping)]
    return per_kind or [parameters]
