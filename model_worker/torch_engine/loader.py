"""From a model folder to an engine that has proved itself: check, load, quantize, measure, allocate, test.

Offline, safetensors only, never code from the model. Whatever cannot be served is a LoadError with one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial

import torch
from transformers import PreTrainedModel

from model_worker.engine import EngineSpec
from model_worker.loading.adapter_files import read_adapter_files
from model_worker.loading.host_memory import give_back_freed
from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.loading.load_progress import LoadProgress, LoadStage
from model_worker.loading.model_files import ModelFiles, read_model_files
from model_worker.loading.private_folder import private_folder
from model_worker.torch_engine.attention.choice import attention_kernel
from model_worker.torch_engine.attention_probe import probe_layers
from model_worker.torch_engine.compilation import compiled
from model_worker.torch_engine.int8.packed_linear import pack_linears
from model_worker.torch_engine.kv_budget import kv_capacity
from model_worker.torch_engine.kv_storage import LayerShape
from model_worker.torch_engine.load_plan import LoadPlan, LoadSettings
from model_worker.torch_engine.lora_weights import adapter_bytes, attach_adapters
from model_worker.torch_engine.native.library import NativeLibrary, cpp_compiler, native_library
from model_worker.torch_engine.pretrained import load_pretrained
from model_worker.torch_engine.rope_check import check_rope
from model_worker.torch_engine.self_test import SELF_TEST_TOKENS, self_test
from model_worker.torch_engine.transformers_engine import TransformersEngine
from model_worker.torch_engine.unrounded import unrounded_activations
from model_worker.torch_engine.warm_up import WARM_UP_TOKENS, warm_up
from model_worker.torch_engine.weight_report import weigh

_WEIGHTS_SHARE = 0.9  # of the time that loading takes
_CODE_OPTION = "--compile-cache"
_log = logging.getLogger("tokenmill.worker.load")


def load_engine(settings: LoadSettings, progress: Callable[[LoadProgress], None]) -> TransformersEngine:
    """Load the model that `settings` name and return an engine that has passed its self-test.

    `progress` is called from this thread. Errors: LoadError (one line for the operator), OutOfMemory.
    """
    progress(LoadProgress("checking files", 0.0))
    if settings.compile:  # what is missing is told now, not when the weights are loaded
        private_folder(settings.code_folder, _CODE_OPTION)
        cpp_compiler()
    files = read_model_files(settings.model)
    adapters = read_adapter_files(settings.adapters, settings.max_lora_rank)
    context_length = _context_length(settings, files)
    plan = LoadPlan.of(settings, files)
    library = _native_library(settings) if plan.device.type == "cpu" else None
    _use_threads(settings.threads)

    stage: LoadStage = "loading weights" if plan.scheme == "none" or plan.stored else "quantizing"

    def weights_progress(fraction: float) -> None:
        progress(LoadProgress(stage, _WEIGHTS_SHARE * fraction))

    model = load_pretrained(files.path, plan, weights_progress)

    progress(LoadProgress("preparing", _WEIGHTS_SHARE))
    weights = weigh(model)
    weights.log(plan.scheme)
    lora = attach_adapters(model, adapters, plan.dtype)
    check_rope(model.config.get_text_config(), context_length)
    layers = probe_layers(model)
    kernel = attention_kernel(layers.values(), plan.scheme, library)
    spec = dataclasses.replace(
        _spec(settings, files, plan, model, layers.values()),
        weight_bytes=weights.total_bytes + adapter_bytes(model),
        adapters=tuple(adapter.name for adapter in adapters),
    )
    engine = TransformersEngine(model, layers, spec, kernel, lora, _helpers(library))
    return _ready(engine, model, library, settings, progress)


def _spec(
    settings: LoadSettings,
    files: ModelFiles,
    plan: LoadPlan,
    model: PreTrainedModel,
    shapes: Collection[LayerShape],
) -> EngineSpec:
    """Return what the engine around `model` will be, but for its weights. Errors: LoadError."""
    bytes_per_token: Counter[torch.device] = Counter()
    for shape in shapes:
        bytes_per_token[shape.device] += shape.bytes_per_token
    capacity = kv_capacity(settings.kv_cache_memory, bytes_per_token, max(SELF_TEST_TOKENS, WARM_UP_TOKENS))
    vocabulary_size = model.get_input_embeddings().num_embeddings
    files.check_eos(vocabulary_size)
    return EngineSpec(
        vocabulary_size=vocabulary_size,
        context_length=_held_context(_context_length(settings, files), capacity, settings),
        kv_capacity_tokens=capacity,
        kv_bytes_per_token=bytes_per_token.total(),
        eos_token_ids=files.eos_token_ids,
        device=",".join(str(device) for device in bytes_per_token),
        dtype=str(plan.dtype).removeprefix("torch."),
        quantization=plan.scheme,
        defaults=files.defaults,
    )


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


def _native_library(settings: LoadSettings) -> NativeLibrary | None:
    """Return our C++; None where it is not wanted or, unless the model is to be compiled, not to be had.

    Errors: UnavailableOptionError.
    """
    if not settings.native and not settings.compile:
        return None
    try:
        return native_library(private_folder(settings.code_folder, _CODE_OPTION))
    except UnavailableOptionError as error:
        if settings.compile:
            raise
        _log.warning("without our own code for CPUs, which is several times faster: %s", error)
        return None


def _helpers(library: NativeLibrary | None) -> Callable[[], AbstractContextManager[None]]:
    """Return what lets the threads of our C++ take part in a step, if there is any."""
    if library is None:
        return contextlib.nullcontext
    return partial(library.helpers_awake, torch.get_num_threads())


def _ready(
    engine: TransformersEngine,
    model: PreTrainedModel,
    library: NativeLibrary | None,
    settings: LoadSettings,
    progress: Callable[[LoadProgress], None],
) -> TransformersEngine:
    """Test `engine`, then let our C++ have its int8 layers, and compile its model; or close it.

    Errors: UnsupportedModelError, OutOfMemory.
    """
    try:
        progress(LoadProgress("testing", 0.95))
        with unrounded_activations(model):
            result = self_test(engine, model)
        give_back_freed()
        _log.info("self-test passed: deviation %.2g of at most %.2g", result.deviation, result.tolerance)
        if library is not None:
            pack_linears(model, library)
        if settings.compile:
            progress(LoadProgress("compiling", 0.96))
            folder = private_folder(settings.code_folder, _CODE_OPTION)
            is_compiled = compiled(model, folder, partial(warm_up, engine))
            engine.spec = dataclasses.replace(engine.spec, compiled=is_compiled)
            if is_compiled and engine.spec.quantization == "none":
                self_test(engine, model)  # looking past the rounding of others would take other code than is served
    except BaseException:
        engine.close()
        raise
    return engine
