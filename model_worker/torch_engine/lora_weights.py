"""Reads the matrices of LoRA adapters and puts them beside the linear layers of a loaded, perhaps quantized model.

Every matrix that adapter_config.json leads to expect has to be there, with the sizes of its layer, and no other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from model_worker.loading.adapter_config import AdapterConfig
from model_worker.loading.adapter_files import AdapterFiles
from model_worker.loading.load_errors import AdapterError
from model_worker.torch_engine.bitsandbytes_layers import is_bitsandbytes
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.lora_linear import LoraLinear, LoraPair
from model_worker.torch_engine.lora_switch import LoraSwitch
from model_worker.torch_engine.out_of_memory import named_out_of_memory

_log = logging.getLogger("tokenmill.worker.load")
Linear: TypeAlias = nn.Linear | Conv1D | Int8Linear  # bitsandbytes' layers are nn.Linear


def attach_adapters(model: PreTrainedModel, adapters: Sequence[AdapterFiles], dtype: torch.dtype) -> LoraSwitch:
    """Put `adapters` beside the layers of `model`, in each layer's dtype, or `dtype` where the layer is quantized.

    Errors: AdapterError, one line that names the adapter and what does not fit; OutOfMemory.
    """
    switch = LoraSwitch()
    head = model.get_output_embeddings()
    linears = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    for adapter in adapters:
        strangers = adapter.config.strangers(list(linears))
        if strangers:
            raise AdapterError(
                f"adapter {adapter.name}: {strangers[0]!r:.80} is no linear layer of {type(model).__name__}"
            )
        wanted = {name: layer for name, layer in linears.items() if adapter.config.wants(name, is_head=layer is head)}
        for name, pair in _read_pairs(adapter, wanted, dtype).items():
            layer = model.get_submodule(name)
            if not isinstance(layer, LoraLinear):
                layer = switch.layer(layer, is_head=layer is head)
                model.set_submodule(name, layer)
            layer.add_adapter(adapter.name, pair)
    if adapters:
        _log.info("adapters: %d, %.1f MiB", len(adapters), adapter_bytes(model) / 2**20)
    return switch


def adapter_bytes(model: nn.Module) -> int:
    """Return what all adapters of `model` weigh."""
    return sum(module.adapter_bytes for module in model.modules() if isinstance(module, LoraLinear))


def _read_pairs(adapter: AdapterFiles, wanted: Mapping[str, Linear], dtype: torch.dtype) -> dict[str, LoraPair]:
    """Read the matrices of each layer in `wanted`, by its name. Errors: AdapterError, OutOfMemory."""
    try:
        with named_out_of_memory():
            weights = load_file(adapter.weights)
            _refuse_base_weights(weights)
            _check_keys(weights.keys(), {_key(name, side) for name in wanted for side in "AB"})
            return {name: _pair(adapter.config, name, layer, weights, dtype) for name, layer in wanted.items()}
    except (ValueError, SafetensorError) as error:
        raise AdapterError(f"adapter {adapter.name}: {error}") from error


def _key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def _refuse_base_weights(weights: Mapping[str, torch.Tensor]) -> None:
    """Peft saves head and embedding too where they are targets: perhaps with more tokens than the model has."""
    copies = [key for key in weights if key.endswith(".base_layer.weight")]
    if copies:
        raise ValueError(f"carries a base weight, {copies[0]} (peft leaves it out with save_embedding_layers=False)")


def _check_keys(found: AbstractSet[str], expected: AbstractSet[str]) -> None:
    missing, unexpected = expected - found, found - expected
    if unexpected:
        raise ValueError(f"{len(unexpected)} of its weights are of no targeted linear layer, first {min(unexpected)}")
    if missing:
        raise ValueError(f"lacks {len(missing)} weights of its targets, first {min(missing)}")


def _pair(
    config: AdapterConfig, name: str, layer: Linear, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> LoraPair:
    rank = config.rank_of(name)
    width_in, width_out = _widths(layer)
    quantized = isinstance(layer, Int8Linear) or is_bitsandbytes(layer)
    like = torch.empty(0, dtype=dtype if quantized else layer.weight.dtype, device=layer.weight.device)
    a, b = (
        _matrix(weights, _key(name, side), sizes, like)
        for side, sizes in (("A", (rank, width_in)), ("B", (width_out, rank)))
    )
    return LoraPair(a, b, config.scaling_of(name))


def _matrix(weights: Mapping[str, torch.Tensor], key: str, sizes: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Return the weight `key`, transposed, as a copy in the dtype and on the device of `like`. Errors: ValueError."""
    weight = weights[key]
    if tuple(weight.shape) != sizes:
        raise ValueError(f"{key} is {list(weight.shape)} where the model and the rank ask for {list(sizes)}")
    # Laid out as it is read: products with it take two thirds of the time that a transposed view costs.
    matrix = weight.t().to(like.device, like.dtype).clone(memory_format=torch.contiguous_format)
    if not matrix.isfinite().all():
        raise ValueError(f"{key} has values that are no finite numbers in {str(like.dtype).removeprefix('torch.')}")
    return matrix


def _widths(layer: Linear) -> tuple[int, int]:
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
