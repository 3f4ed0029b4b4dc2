"""What there is to know of a layer that bitsandbytes quantized. It is never imported here: only its layers need it."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

_LAYERS = {"Linear4bit", "Linear8bitLt"}  # its classes; dtypes do not tell: 4 bits may be stored as any


def is_bitsandbytes(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether `module` is one of bitsandbytes' quantized layers."""
    return isinstance(module, nn.Linear) and type(module).__name__ in _LAYERS


def dequantized_weight(module: nn.Linear) -> torch.Tensor:
    """Return the weights that the quantized ones of `module` stand for: [out, in]."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight  # noqa: PLC0415 - imports bitsandbytes

    weight: torch.Tensor = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
    return weight


def scales(module: nn.Linear) -> list[torch.Tensor]:
    """Return the tensors beside the weight of `module` that it takes to read it; none where they were not loaded."""
    state = getattr(module.weight, "quant_state", None)
    if state is not None:
        nested = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
        return [state.absmax, state.code, *nested]
    # The scale of 8 bits moves from the weight to the layer's state when the layer first computes.
    rows = getattr(module.weight, "SCB", None)
    rows = rows if rows is not None else getattr(getattr(module, "state", None), "SCB", None)
    return [] if rows is None else [rows]
