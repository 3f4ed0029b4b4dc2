"""The quantization schemes: what each one asks of transformers at load, and what is done to the model afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from model_worker.torch_engine.int8_linear import Int8Linear

Scheme = Literal["none", "int8", "bnb-nf4", "bnb-fp4", "bnb-int8"]


def scheme_for(requested: Scheme | Literal["auto"], device: torch.device) -> Scheme:
    """Resolve `auto`: bitsandbytes' 4 bits pay on a GPU, on a CPU they are slower than float32 and int8 is faster."""
    if requested != "auto":
        return requested
    return "bnb-nf4" if device.type == "cuda" else "int8"


def bitsandbytes_config(
    scheme: Scheme, compute_dtype: torch.dtype, *, double_quantization: bool
) -> BitsAndBytesConfig | None:
    """Return what makes transformers load with bitsandbytes, or None where the scheme does not use it."""
    if scheme == "bnb-int8":
        # Outliers would be looked for over all rows of a step at once: with the threshold at 0 each row stands alone.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    if scheme in {"bnb-nf4", "bnb-fp4"}:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=scheme.removeprefix("bnb-"),
            bnb_4bit_compute_dtype=compute_dtype,  # its own default is float32, whatever the model's dtype
            bnb_4bit_use_double_quant=double_quantization,
        )
    return None


def silence_bitsandbytes() -> None:
    """Drop what bitsandbytes warns of on a CPU, before it is imported.

    At import: that it could not fetch a kernel over the network, which is never wanted. At every int8 product: that it
    computes a float32 model through float16.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quantize_to_int8(model: PreTrainedModel, device: torch.device, progress: Callable[[float], None]) -> None:
    """Replace every linear layer of `model` by an Int8Linear, one by one, so that only one exists in both forms.

    Embeddings stay. An output head that shares the embedding's matrix gets an int8 copy of it: the head is the largest
    product of a decode step, and the copy costs a quarter of what it shares. `progress` hears the fraction done.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for done, name in enumerate(found, start=1):
        parent_name, _, attribute = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        linear = getattr(parent, attribute)
        weight = linear.weight.t() if isinstance(linear, Conv1D) else linear.weight  # Conv1D stores [in, out]
        if Int8Linear.supports(weight, device):
            setattr(parent, attribute, Int8Linear(weight, linear.bias))
        progress(done / len(found))
