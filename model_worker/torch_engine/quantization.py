"""The quantization schemes: what each one asks of transformers at load, and which layers it leaves as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.torch_engine.int8.quantizer import Int8Config
from model_worker.torch_engine.load_plan import LoadPlan


def quantization_config(plan: LoadPlan, config: Any) -> BitsAndBytesConfig | Int8Config | None:
    """Return what makes transformers quantize while it loads the model of `config`, or None where nothing does.

    Errors: UnavailableOptionError when a module to skip is none of the model's.
    """
    if plan.scheme == "none":
        return None
    names = plan.options.skip_modules
    if plan.scheme == "int8":
        return Int8Config(plan.device, _skipped(config, names, keep_head=False) if names else ())
    return BitsAndBytesConfig(
        load_in_8bit=plan.scheme == "bnb-int8",
        load_in_4bit=plan.scheme != "bnb-int8",
        bnb_4bit_quant_type="fp4" if plan.scheme == "bnb-fp4" else "nf4",
        bnb_4bit_use_double_quant=plan.options.double_quantization,
        llm_int8_skip_modules=_skipped(config, names, keep_head=True) if names else None,
        **_computation(plan),
    )


def set_computation(plan: LoadPlan, config: Any) -> None:
    """Let the model of `config`, which is quantized already, compute as we say and not as whoever saved it did."""
    for holder in (config, config.get_text_config()):
        said = getattr(holder, "quantization_config", None)
        if said is not None:
            said.update(_computation(plan))


def silence_bitsandbytes() -> None:
    """Drop what bitsandbytes warns of on a CPU, before it is imported.

    At import: that it could not fetch a kernel over the network, which is never wanted. At every int8 product: that it
    computes a float32 model through float16.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _computation(plan: LoadPlan) -> dict[str, Any]:
    """Return the part of a bitsandbytes configuration that is no matter of the weights.

    Outliers are looked for over all rows of a step at once: with bitsandbytes' own threshold of 6 the result of a row
    would depend on the others.
    """
    return {"bnb_4bit_compute_dtype": plan.compute_dtype, "llm_int8_threshold": plan.options.int8_threshold}


def _skipped(config: Any, names: Sequence[str], *, keep_head: bool) -> list[str]:
    """Return the full names of the linear layers that `names` cover, and with `keep_head` of those kept by default."""
    with torch.device("meta"):  # the layers without their weights
        model = AutoModelForCausalLM.from_config(config)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    covered = {wanted: [layer for layer in layers if _covers(wanted, layer)] for wanted in names}
    for wanted, found in covered.items():
        if not found:
            candidates = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))
            raise UnavailableOptionError(
                f"--quantization-skip-modules {wanted}: no linear layer of {type(model).__name__} is called that or "
                f"stands in a module called that; the last parts of their names are {candidates}"
            )
    skipped = {layer for found in covered.values() for layer in found}
    return sorted(skipped | (set(get_keys_to_not_convert(model)) if keep_head else set()))


def _covers(wanted: str, layer: str) -> bool:
    """Whether the dotted name `wanted` is `layer`, or whole parts of it: "mlp" and "layers.0" cover "layers.0.mlp"."""
    return f".{wanted}." in f".{layer}."
