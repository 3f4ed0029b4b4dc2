"""Which engine the settings ask for. What an engine needs is imported only when it is the one: torch takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model_worker.engine import Engine
from model_worker.engines.script import Script, read_script
from model_worker.engines.scripted_engine import scripted_engine
from model_worker.engines.waiting_threads import spin_briefly
from model_worker.loading.adapter_files import adapter_folders
from model_worker.loading.load_errors import LoadError
from model_worker.loading.load_progress import LoadProgress
from model_worker.loading.schemes import QuantizationOptions
from model_worker.settings import WorkerSettings
from rpc.cpu import granted_cores


def load_engine(settings: WorkerSettings, progress: Callable[[LoadProgress], None]) -> Engine:
    """Load the engine; takes seconds to minutes. Errors: LoadError."""
    if settings.script is not None and settings.engine != "scripted":
        raise LoadError("--script is for --engine scripted")
    return _transformers(settings, progress) if settings.engine == "transformers" else _scripted(settings)


def _transformers(settings: WorkerSettings, progress: Callable[[LoadProgress], None]) -> Engine:
    spin_briefly()
    from model_worker.torch_engine import load_plan, loader  # noqa: PLC0415 - see the top of the file

    wanted = load_plan.LoadSettings(
        model=settings.model,
        device=settings.device,
        device_map=settings.device_map,
        dtype=settings.dtype,
        quantization=settings.quantization,
        quantization_options=QuantizationOptions(
            double_quantization=settings.bnb_double_quantization,
            compute_dtype=settings.bnb_compute_dtype,
            int8_threshold=settings.bnb_int8_threshold,
            skip_modules=settings.quantization_skip_modules,
        ),
        max_model_len=settings.max_model_len,
        kv_cache_memory=settings.kv_cache_memory,
        threads=settings.threads or granted_cores(),
        adapters=adapter_folders(settings.lora_modules, settings.model_name),
        max_lora_rank=settings.max_lora_rank,
        compile=settings.compile,
        native=settings.native_kernels,
        code_folder=settings.compile_cache,
    )
    return loader.load_engine(wanted, progress)


def _scripted(settings: WorkerSettings) -> Engine:
    vocabulary_size = _vocabulary_size(settings.tokenizer_folder)
    script = read_script(settings.script, vocabulary_size) if settings.script else Script()
    if settings.max_model_len:
        script = replace(script, context_length=settings.max_model_len)
    adapters = tuple(adapter_folders(settings.lora_modules, settings.model_name))
    return scripted_engine(script, vocabulary_size, adapters)


def _vocabulary_size(folder: Path) -> int:
    """One more than the largest id of the tokenizer.json in `folder`. Errors: LoadError."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]  # ids by token or, in a unigram model, a list in their order
        ids = list(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))
        return 1 + max(int(token_id) for token_id in [*ids, *(token["id"] for token in tokenizer["added_tokens"])])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{folder / 'tokenizer.json'}: the ids of its tokens cannot be read") from error
