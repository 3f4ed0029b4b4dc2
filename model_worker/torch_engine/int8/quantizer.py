"""Our 8-bit layers as a quantizer of transformers: each weight is quantized as it is read.

So the weights never stand whole in floating point, and go to a GPU in 8 bits.
"""

# transformers comes without types: classes made for it derive from Any.
# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from model_worker.torch_engine.int8.linear import Int8Linear

_METHOD = "tokenmill-int8"


@register_quantization_config(_METHOD)
class Int8Config(QuantizationConfigMixin):
    """For the `device` that the model is loaded to. `kept` names the linear layers that stay in floating point."""

    def __init__(self, device: torch.device, kept: Collection[str] = ()) -> None:
        self.quant_method = _METHOD
        self.device = device
        self.kept = frozenset(kept)


@register_quantizer(_METHOD)
class Int8Quantizer(HfQuantizer):
    """What transformers asks while it loads a model that an Int8Config goes with."""

    quantization_config: Int8Config
    _transposed: frozenset[str] = frozenset()  # layers whose weight stands in the files as [in, out]

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: object) -> None:
        """Replace the layers that read weights of their own. A head that shares the embedding's reads none."""
        self._transposed = frozenset(name for name, module in model.named_modules() if isinstance(module, Conv1D))
        tied = model.all_tied_weights_keys
        shared = {name.removesuffix(".weight") for name in [*tied.keys(), *tied.values()]}
        quantize_to_int8(model, self.quantization_config.device, self.quantization_config.kept | shared)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> PreTrainedModel:
        quantize_to_int8(model, self.quantization_config.device, self.quantization_config.kept)
        return model

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: object) -> bool:
        """Whether what is read for `param_name` goes through `get_quantize_ops`."""
        path, _dot, name = param_name.rpartition(".")
        return name == "weight" and isinstance(model.get_submodule(path), Int8Linear)

    def get_quantize_ops(self) -> ConversionOps:
        """Return what turns a weight into the tensors of an Int8Linear."""
        return _Quantize(self._transposed)

    def is_serializable(self) -> bool:
        """Whether the model can be saved like this: nothing could read it."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Whether the model can be trained."""
        return False


class _Quantize(ConversionOps):
    """From the tensors that were read together, by name, to those that the model's layers hold."""

    def __init__(self, transposed: Collection[str]) -> None:
        self._transposed = transposed

    def convert(self, input_dict: dict[str, Any], *, model: PreTrainedModel, **_: object) -> dict[str, torch.Tensor]:
        """Errors: ValueError when a weight has not the size that the configuration says."""
        tensors: dict[str, torch.Tensor] = {}
        for name, read in input_dict.items():
            weight = read[0] if isinstance(read, list) else read
            path = name.rpartition(".")[0]
            module = model.get_submodule(path)
            if not isinstance(module, Int8Linear):
                tensors[name] = weight
                continue
            quantized = Int8Linear(weight.t() if path in self._transposed else weight, None)
            if (quantized.out_features, quantized.in_features) != (module.out_features, module.in_features):
                raise ValueError(f"{name} is {list(weight.shape)}")
            tensors |= {f"{path}.{part}": tensor for part, tensor in quantized.named_buffers()}
        return tensors


def quantize_to_int8(model: PreTrainedModel, device: torch.device, kept: Collection[str] = ()) -> None:
    """Replace the linear layers of `model`, but those named in `kept`, by Int8Linears that `device` can compute.

    Embeddings stay. An output head that shares the embedding's matrix gets an int8 copy of it: the head is the largest
    product of a decode step, and the copy costs a quarter of what it shares.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | Conv1D) or name in kept:
            continue
        weight = module.weight.t() if isinstance(module, Conv1D) else module.weight  # Conv1D stores [in, out]
        if Int8Linear.supports(weight, device):
            quantized = Int8Linear(weight, module.bias)
            _hand_over_hook(module, quantized)
            model.set_submodule(name, quantized)


def _hand_over_hook(module: nn.Module, successor: nn.Module) -> None:
    """Let accelerate, which moves each layer's input to the layer's device in a model that is spread, do it on."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        remove_hook_from_module(module)
        add_hook_to_module(successor, hook)
