"""What is going to be loaded, and how: every `auto` of the settings resolved against the model and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.loading.model_files import ModelFiles
from model_worker.loading.private_folder import CODE_FOLDER
from model_worker.loading.schemes import QuantizationOptions, Scheme, SchemeOption

_COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DtypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """What to load and how. None means: decided from the model and the machine."""

    model: Path
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_map: Literal["single", "auto"] = "single"  # auto: the layers over all CUDA devices
    dtype: DtypeName = "auto"
    quantization: SchemeOption = "auto"
    quantization_options: QuantizationOptions = field(default_factory=QuantizationOptions)
    max_model_len: int | None = None  # tokens
    kv_cache_memory: int | None = None  # bytes
    threads: int | None = None  # of one torch operation
    adapters: Mapping[str, Path] = field(default_factory=dict)  # folders of LoRA adapters, by name
    max_lora_rank: int = 64
    compile: bool = False  # the model's layers; takes our C++ too
    native: bool = False  # our C++, on a CPU, where it can be had
    code_folder: Path = CODE_FOLDER  # for what is compiled


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`device` is that of the model, or where it is `spread` that of its first part."""

    device: torch.device
    spread: bool
    dtype: torch.dtype
    scheme: Scheme
    options: QuantizationOptions
    stored: bool  # the files hold the weights in this scheme already

    @classmethod
    def of(cls, settings: LoadSettings, files: ModelFiles) -> LoadPlan:
        """Errors: UnavailableOptionError."""
        device = _device(settings)
        spread = settings.device_map == "auto" and torch.cuda.device_count() > 1
        if spread and settings.compile:
            raise UnavailableOptionError(
                "--compile: not for a model that --device-map auto spreads over several devices"
            )
        stored = files.stored_scheme
        if stored is not None and settings.quantization not in {"auto", stored}:
            raise UnavailableOptionError(
                f"--quantization {settings.quantization}: {files.path} is quantized already, as {stored}"
            )
        scheme = stored or _scheme(settings.quantization, device)
        settings.quantization_options.check(scheme, stored=stored is not None)
        dtype = _dtype(settings.dtype, files.dtype, device, scheme)
        return cls(device, spread, dtype, scheme, settings.quantization_options, stored is not None)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the products of 4-bit layers. bitsandbytes' own default is float32, whatever the model's dtype."""
        named = self.options.compute_dtype
        return self.dtype if named == "auto" else _COMPUTE_DTYPES[named]


def _device(settings: LoadSettings) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise UnavailableOptionError("--device cuda: torch finds no CUDA device")
    on_cpu = settings.device == "cpu" or not has_cuda
    if settings.device_map == "auto" and on_cpu:
        raise UnavailableOptionError("--device-map auto spreads a model over CUDA devices; this one runs on the CPU")
    if on_cpu:
        return torch.device("cpu")
    # Spread over all devices the model begins on the first of them.
    return torch.device("cuda", 0 if settings.device_map == "auto" else torch.cuda.current_device())


def _scheme(requested: SchemeOption, device: torch.device) -> Scheme:
    """Resolve `auto`: bitsandbytes' 4 bits pay on a GPU, on a CPU they are slower than float32 and int8 is faster."""
    if requested != "auto":
        return requested
    return "bnb-nf4" if device.type == "cuda" else "int8"


def _dtype(requested: DtypeName, checkpoint: str | None, device: torch.device, scheme: Scheme) -> torch.dtype:
    """Resolve `auto`: float32 on a CPU (few compute in 16 bits); on a GPU the checkpoint's, 16 bits beside 4 or 8."""
    if requested != "auto":
        name: str = requested
    elif device.type == "cpu":
        name = "float32"
    elif scheme == "none" and checkpoint is not None:
        name = checkpoint
    else:
        name = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UnavailableOptionError(f"the checkpoint's dtype {name} cannot be computed in: give --dtype")
    return dtype
