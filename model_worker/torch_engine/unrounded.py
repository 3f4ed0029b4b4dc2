"""Lets quantized layers compute without rounding their activations, for as long as a comparison needs it.

An int8 layer rounds its input, and so turns a difference in the last bit of attention into one of a whole step: two
correct computations of the same logits end 0.4 spreads apart on the demo model. That would hide what the self-test
looks for. With the same quantized weights and unrounded activations they agree like unquantized ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.functional import linear

from model_worker.torch_engine.bitsandbytes_layers import dequantized_weight, is_bitsandbytes
from model_worker.torch_engine.int8.linear import Int8Linear


@contextmanager
def unrounded_activations(model: nn.Module) -> Iterator[None]:
    """Compute every quantized layer of `model` in floating point until the end of the block. Slow."""
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, Int8Linear):
                hooks.callback(module.register_forward_hook(_int8).remove)
            elif is_bitsandbytes(module):
                hooks.callback(module.register_forward_hook(_bitsandbytes).remove)
        yield


def _int8(module: Int8Linear, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> torch.Tensor:
    return linear(inputs[0], module.dequantized_weight().to(inputs[0].dtype), module.bias)


def _bitsandbytes(module: nn.Linear, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.to(inputs[0].dtype)  # the layer keeps it in its own dtype
    return linear(inputs[0], dequantized_weight(module).to(inputs[0].dtype), bias)
