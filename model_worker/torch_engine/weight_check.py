"""Whether the weights in the files are the weights of the model, no fewer and no others, and where they ended up."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from model_worker.loading.load_errors import ModelFolderError, UnavailableOptionError
from model_worker.torch_engine.bitsandbytes_layers import is_bitsandbytes, scales
from model_worker.torch_engine.int8.linear import Int8Linear

_log = logging.getLogger("tokenmill.worker.load")


def check_weights(model: nn.Module, path: Path, *, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Check what transformers found in `path` against `model`, and warn of what the files hold besides.

    Errors: ModelFolderError when weights are missing, or when there are more layers of them than config.json says.
    """
    name = type(model).__name__
    lacking = set(missing) - _made_when_loaded(model)
    if lacking:
        raise ModelFolderError(f"{path} lacks {len(lacking)} weights of {name}, first {min(lacking)}")
    unscaled = [layer for layer, module in model.named_modules() if is_bitsandbytes(module) and not scales(module)]
    if unscaled:
        raise ModelFolderError(f"{path} lacks the scales of {len(unscaled)} quantized layers, first {min(unscaled)}")
    kinds = {_kind(weight) for weight, _ in [*model.named_parameters(), *model.named_buffers()]}
    further = [weight for weight in unexpected if _kind(weight) in kinds]
    if further:
        raise ModelFolderError(
            f"{path} has {len(further)} weights for more layers than config.json says, first {min(further)}"
        )
    if unexpected:
        _log.warning("%d weights in %s are none of %s, first %s", len(unexpected), path, name, min(unexpected))


def check_placement(model: nn.Module, device: torch.device) -> None:
    """Errors: UnavailableOptionError when a part of `model` is not on a device of the kind of `device`.

    What accelerate finds no room for on the GPUs it would compute from the host's memory or from disk, all the time.
    """
    strangers = {tensor.device.type for tensor in model.parameters()} - {device.type}
    if strangers:
        raise UnavailableOptionError(f"--device-map auto: the model does not fit on the {device.type} devices")


def _made_when_loaded(model: nn.Module) -> set[str]:
    """Return the names of what an Int8Linear makes of its weight, and no file has."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, Int8Linear)]
    parts = {f"{name}.{part}" for name, module in layers for part, _ in module.named_buffers()}
    return parts - {f"{name}.{part}" for name, _ in layers for part in ("weight", "bias")}


def _kind(weight: str) -> str:
    """Return the weight's name without its numbers: the same for all layers and experts."""
    return re.sub(r"\d+", "#", weight)
