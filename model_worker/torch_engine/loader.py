"""From a model folder to an engine that has proved itself: check, load, quantize, measure, allocate, test.

Offline, safetensors only, never code from the model. Whatever cannot be served is a LoadError with one line.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from model_worker.engine import EngineSpec, OutOfMemory
from model_worker.loading.load_errors import LoadError, UnavailableOptionError
from model_worker.loading.load_progress import LoadProgress, LoadStage
from model_worker.loading.model_files import ModelFiles, read_model_files
from model_worker.torch_engine.attention_probe import probe_layers
from model_worker.torch_engine.kv_budget import kv_capacity
from model_worker.torch_engine.kv_storage import LayerShape
from model_worker.torch_engine.out_of_memory import named_out_of_memory
from model_worker.torch_engine.quantization import (
    Scheme,
    bitsandbytes_config,
    quantize_to_int8,
    scheme_for,
    silence_bitsandbytes,
)
from model_worker.torch_engine.rope_check import check_rope
from model_worker.torch_engine.self_test import SELF_TEST_TOKENS, self_test
from model_worker.torch_engine.transformers_engine import TransformersEngine
from model_worker.torch_engine.unrounded import unrounded_activations
from model_worker.torch_engine.weight_check import check_weights
from model_worker.torch_engine.weight_progress import weight_progress
from model_worker.torch_engine.weight_report import weigh

_LONGEST_REASON = 300  # characters of what transformers has to say
DtypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]
_log = logging.getLogger("tokenmill.worker.load")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """What to load and how. None means: decided from the model and the machine."""

    model: Path
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: DtypeName = "auto"
    quantization: Scheme | Literal["auto"] = "auto"
    double_quantization: bool = False  # bitsandbytes' 4 bits only: the scales are quantized too
    max_model_len: int | None = None  # tokens
    kv_cache_memory: int | None = None  # bytes
    threads: int | None = None  # of one torch operation


def load_engine(settings: LoadSettings, progress: Callable[[LoadProgress], None]) -> TransformersEngine:
    """Load the model that `settings` name and return an engine that has passed its self-test.

    `progress` is called from this thread. Errors: LoadError (one line for the operator), OutOfMemory.
    """
    progress(LoadProgress("checking files", 0.0))
    files = read_model_files(settings.model)
    context_length = _context_length(settings, files)
    plan = _Plan.of(settings, files)
    _use_threads(settings.threads)
    model = _load_model(files, plan, progress)
    report = weigh(model)
    report.log(plan.scheme)

    progress(LoadProgress("preparing", 0.9))
    check_rope(model.config.get_text_config(), context_length)
    layers = probe_layers(model)
    bytes_per_token = sum(shape.bytes_per_token for shape in layers.values())
    capacity = kv_capacity(settings.kv_cache_memory, bytes_per_token, plan.device, SELF_TEST_TOKENS)
    vocabulary_size = model.get_input_embeddings().num_embeddings
    files.check_eos(vocabulary_size)
    spec = EngineSpec(
        vocabulary_size=vocabulary_size,
        context_length=_held_context(context_length, capacity, settings),
        kv_capacity_tokens=capacity,
        kv_bytes_per_token=bytes_per_token,
        eos_token_ids=files.eos_token_ids,
        device=str(plan.device),
        dtype=str(plan.dtype).removeprefix("torch."),
        quantization=plan.scheme,
        defaults=files.defaults,
        weight_bytes=report.total_bytes,
    )
    return _tested_engine(model, layers, spec, progress)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Every `auto` resolved."""

    device: torch.device
    dtype: torch.dtype
    scheme: Scheme
    double_quantization: bool

    @classmethod
    def of(cls, settings: LoadSettings, files: ModelFiles) -> _Plan:
        has_cuda = torch.cuda.is_available()
        if settings.device == "cuda" and not has_cuda:
            raise UnavailableOptionError("--device cuda: torch finds no CUDA device")
        on_cpu = settings.device == "cpu" or not has_cuda
        device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
        scheme = scheme_for(settings.quantization, device)
        dtype = _dtype(settings.dtype, files.dtype, device, scheme)
        return cls(device, dtype, scheme, settings.double_quantization)


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


def _context_length(settings: LoadSettings, files: ModelFiles) -> int:
    limit, asked = files.context_length, settings.max_model_len
    if limit is None and asked is None:
        raise UnavailableOptionError(f"{files.path / 'config.json'} names no context length: give --max-model-len")
    if limit is not None and asked is not None and asked > limit:
        raise UnavailableOptionError(f"--max-model-len {asked} is more than the model's {limit} tokens")
    length = asked if asked is not None else limit
    assert length is not None
    return length


def _held_context(context_length: int, kv_capacity_tokens: int, settings: LoadSettings) -> int:
    """The context that the K/V storage can hold for one row: what is served must be able to run to its end."""
    if context_length <= kv_capacity_tokens:
        return context_length
    if settings.max_model_len is not None:
        raise UnavailableOptionError(
            f"--max-model-len {context_length} is more than the {kv_capacity_tokens} tokens that the K/V memory holds "
            "(--kv-cache-memory)"
        )
    _log.warning(
        "the K/V memory holds %d tokens: the context is that and not the model's %d (--kv-cache-memory)",
        kv_capacity_tokens,
        context_length,
    )
    return kv_capacity_tokens


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    # One generation thread computes one step at a time: there is nothing to run beside an operation. torch allows to
    # say so once, before its first parallel work; later (in a test process) it does not matter any more.
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)


def _load_model(files: ModelFiles, plan: _Plan, progress: Callable[[LoadProgress], None]) -> PreTrainedModel:
    """Load the weights and quantize them. int8 starts from the CPU: only what is quantized already goes to a GPU."""

    def stage(name: LoadStage, start: float, end: float) -> Callable[[float], None]:
        return lambda fraction: progress(LoadProgress(name, start + (end - start) * fraction))

    int8 = plan.scheme == "int8"
    weights_share = 0.7 if int8 else 0.9
    transformers.logging.set_verbosity_error()  # what matters of a load is said by us, in one line
    silence_bitsandbytes()
    with weight_progress(stage("loading weights", 0.0, weights_share)):
        model = _from_pretrained(files.path, plan, torch.device("cpu") if int8 else plan.device)
    if int8:
        quantize_to_int8(model, plan.device, stage("quantizing", weights_share, 0.9))
        model.to(plan.device)
    return model.eval()


def _from_pretrained(path: Path, plan: _Plan, device: torch.device) -> PreTrainedModel:
    """Let transformers read the folder, and hear about weights it would otherwise make up at random or leave out."""
    quantization = bitsandbytes_config(plan.scheme, plan.dtype, double_quantization=plan.double_quantization)
    try:
        with named_out_of_memory():
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=plan.dtype,
                device_map={"": device},
                quantization_config=quantization,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except OutOfMemory:
        raise
    except Exception as error:  # transformers lets a file that does not fit run into whatever error it leads to
        reason = shorten(str(error) or type(error).__name__, _LONGEST_REASON)
        raise LoadError(f"{path} cannot be loaded: {reason}") from error
    check_weights(model, path, missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    return model


def _tested_engine(
    model: PreTrainedModel,
    layers: Mapping[nn.Module, LayerShape],
    spec: EngineSpec,
    progress: Callable[[LoadProgress], None],
) -> TransformersEngine:
    engine = TransformersEngine(model, layers, spec)
    progress(LoadProgress("testing", 0.95))
    try:
        with unrounded_activations(model):
            result = self_test(engine, model)
    except BaseException:
        engine.close()
        raise
    _log.info("self-test passed: deviation %.2g of at most %.2g", result.deviation, result.tolerance)
    return engine
