"""From a model folder to a model, through transformers: read, quantized on the way, checked, its files let go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import transformers
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from model_worker.engine import OutOfMemory
from model_worker.loading.host_memory import give_back_freed
from model_worker.loading.load_errors import LoadError
from model_worker.torch_engine.load_plan import LoadPlan
from model_worker.torch_engine.out_of_memory import named_out_of_memory
from model_worker.torch_engine.quantization import quantization_config, set_computation, silence_bitsandbytes
from model_worker.torch_engine.weight_check import check_placement, check_weights
from model_worker.torch_engine.weight_progress import weight_progress

_LONGEST_REASON = 300  # characters of what transformers has to say
_GPU_SHARE = 0.9  # of what is free on each, for weights: there are K/V and activations too


def load_pretrained(path: Path, plan: LoadPlan, progress: Callable[[float], None]) -> PreTrainedModel:
    """Return the model in the folder `path` as `plan` says; `progress` hears the fraction of its weights loaded.

    Offline, safetensors only, never code from the model. Errors: LoadError (one line for the operator), OutOfMemory.
    """
    transformers.logging.set_verbosity_error()  # what matters of a load is said by us, in one line
    silence_bitsandbytes()
    try:
        with weight_progress(progress), named_out_of_memory():
            model, info = _read(path, plan)
    except (LoadError, OutOfMemory):
        raise
    except Exception as error:  # transformers lets a file that does not fit run into whatever error it leads to
        reason = shorten(str(error) or type(error).__name__, _LONGEST_REASON)
        raise LoadError(f"{path} cannot be loaded: {reason}") from error
    check_weights(model, path, missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    check_placement(model, plan.device)
    if plan.spread:
        # What is given to the model goes where its layers ask for it; the model as a whole moves nothing.
        remove_hook_from_module(model)
    if plan.scheme != "none":
        _leave_files(model)
        give_back_freed()
    return model.eval()


def _read(path: Path, plan: LoadPlan) -> tuple[PreTrainedModel, dict[str, Any]]:
    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if plan.stored:
        set_computation(plan, config)
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=plan.dtype,
        device_map="auto" if plan.spread else {"": plan.device},
        max_memory=_free_gpu_memory() if plan.spread else None,
        quantization_config=None if plan.stored else quantization_config(plan, config),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    return model, info


def _free_gpu_memory() -> dict[int, int]:
    """Return the bytes that weights may take on each CUDA device."""
    devices = range(torch.cuda.device_count())
    return {device: int(torch.cuda.mem_get_info(device)[0] * _GPU_SHARE) for device in devices}


def _leave_files(model: nn.Module) -> None:
    """Copy what is still read from the mapped files: one tensor would keep all of a file in this process."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and not tensor.untyped_storage().resizable():
            tensor.data = tensor.data.clone()
