"""LoRA adapters for tiny models, in the files that peft writes, and the models they make when they are merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.model_worker.tiny_models import tiny_model

RANK = 4


def write_adapter(
    folder: Path,
    model: PreTrainedModel,
    ends: tuple[str, ...],
    seed: int = 0,
    ranks: Callable[[str], int] = lambda _: RANK,
    spread: float = 0.2,
    **config: Any,
) -> Path:
    """Write an adapter for every linear layer of `model` whose name ends like one of `ends`; `config` adds settings.

    `spread` is the standard deviation of the random matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name.endswith(ends):
            size_in, size_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
            key, rank = f"base_model.model.{name}.lora_", ranks(name)
            tensors[key + "A.weight"] = torch.randn(rank, size_in, generator=generator) * spread
            tensors[key + "B.weight"] = torch.randn(size_out, rank, generator=generator) * spread
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": list(ends)} | config))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def merged(family: str, folder: Path, scaling: Callable[[str], float] = lambda _: 2.0) -> PreTrainedModel:
    """Return the family's tiny model with the adapter of `folder` added to its weights."""
    model = tiny_model(family)
    merge(model, folder, scaling)
    return model


def merge(model: PreTrainedModel, folder: Path, scaling: Callable[[str], float] = lambda _: 2.0) -> None:
    """Add the adapter of `folder` to the weights of `model`: W + scaling · B A."""
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for key, a in tensors.items():
            if key.endswith(".lora_A.weight"):
                name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                layer = model.get_submodule(name)
                delta = scaling(name) * tensors[key.replace("lora_A", "lora_B")].double() @ a.double()
                weight = layer.weight + (delta.t() if isinstance(layer, Conv1D) else delta)
                # A new matrix: one that a head shares with the embedding changes for the head only.
                layer.weight = nn.Parameter(weight.to(layer.weight.dtype))


def add_to_layers(model: PreTrainedModel, folder: Path, scaling: float = 2.0) -> None:
    """Let every targeted layer of `model`, quantized or not, give what it gives and scaling · B (A x) for all rows."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            a, b = tensors[key].double(), tensors[key.replace("lora_A", "lora_B")].double()
            layer = model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            layer.register_forward_hook(lambda _, inputs, out, a=a, b=b: out + scaling * inputs[0] @ a.t() @ b.t())
