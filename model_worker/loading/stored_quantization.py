"""In which scheme the weights of a folder are quantized already, as its config.json says. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_worker.loading.load_errors import ModelFolderError
from model_worker.loading.schemes import Scheme
from model_worker.loading.stated_values import stated_object

_FOUR_BITS: Mapping[str, Scheme] = {"nf4": "bnb-nf4", "fp4": "bnb-fp4"}


def stored_scheme(config: Mapping[str, Any], file: Path) -> Scheme | None:
    """Return the scheme that `config`, the content of `file`, names; None where the weights are not quantized.

    Errors: ModelFolderError for any format but those of bitsandbytes.
    """
    said = stated_object(config, "quantization_config", file)
    if said is None:
        return None
    method = said.get("quant_method", "an unnamed method")
    if method == "bitsandbytes":
        if said.get("load_in_8bit") is True:
            return "bnb-int8"
        four_bits = _FOUR_BITS.get(str(said.get("bnb_4bit_quant_type", "fp4")))
        if said.get("load_in_4bit") is True and four_bits is not None:
            return four_bits
        method = "bitsandbytes, of a kind that is not known"
    raise ModelFolderError(f"{file.parent} is quantized already ({method}); give the original weights")
