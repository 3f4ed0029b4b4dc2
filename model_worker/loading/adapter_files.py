"""The LoRA adapters that an operator asks for: folders as peft writes them, checked before the model is loaded.

No torch here. Only safetensors are read, never pickled weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_worker.loading.adapter_config import AdapterConfig, read_adapter_config
from model_worker.loading.load_errors import AdapterError, ModelFolderError, UnavailableOptionError
from model_worker.loading.safetensors_check import check_safetensors
from rpc.named_folders import named_folders

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter that can be loaded, under the name that requests give it."""

    name: str
    weights: Path
    config: AdapterConfig


def adapter_folders(values: Sequence[str], model_name: str) -> dict[str, Path]:
    """The folders of `--lora-modules` by name. Errors: UnavailableOptionError, also where `model_name` is taken."""
    try:
        folders = named_folders("--lora-modules", values)
    except ValueError as error:
        raise UnavailableOptionError(str(error)) from None
    if model_name in folders:
        raise UnavailableOptionError(f"--lora-modules {model_name}: the served model has this name")
    return folders


def read_adapter_files(folders: Mapping[str, Path], max_rank: int) -> list[AdapterFiles]:
    """Check each folder and read its configuration. Errors: AdapterError, ModelFolderError, one line each."""
    adapters = [_read(name, folder) for name, folder in folders.items()]
    for adapter in adapters:
        rank = max(adapter.config.rank, *adapter.config.ranks.values(), 0)
        if rank > max_rank:
            raise AdapterError(f"adapter {adapter.name} has rank {rank}, more than --max-lora-rank {max_rank}")
    return adapters


def _read(name: str, folder: Path) -> AdapterFiles:
    if not folder.is_dir():
        raise ModelFolderError(f"adapter folder {folder} does not exist")
    config = read_adapter_config(folder / "adapter_config.json")
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise ModelFolderError(f"{folder} has no {_WEIGHTS}; pickled weights are never loaded")
    check_safetensors(weights)
    return AdapterFiles(name, weights, config)
