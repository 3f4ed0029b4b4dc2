"""The quantization schemes, and what a person may say about how one quantizes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model_worker.loading.load_errors import UnavailableOptionError

Scheme = Literal["none", "int8", "bnb-nf4", "bnb-fp4", "bnb-int8"]
SchemeOption = Literal["auto", "none", "int8", "bnb-nf4", "bnb-fp4", "bnb-int8"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]
# The flags, the schemes that use each, and whether it says how to quantize: of weights that are quantized already that
# is settled.
_FOUR_BITS: tuple[Scheme, ...] = ("bnb-nf4", "bnb-fp4")
_USES: dict[str, tuple[tuple[Scheme, ...], bool]] = {
    "--bnb-double-quantization": (_FOUR_BITS, True),
    "--bnb-compute-dtype": (_FOUR_BITS, False),
    "--bnb-int8-threshold": (("bnb-int8",), False),
    "--quantization-skip-modules": (("int8", *_FOUR_BITS, "bnb-int8"), True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationOptions:
    """How to quantize, and how to compute with what is quantized.

    `compute_dtype` is that of the products of 4-bit layers; `auto` is the model's. `int8_threshold` makes bnb-int8
    compute inputs beyond it in 16 bits, looked for over all rows of a step; 0: none, and so rows stand alone.
    `skip_modules` names what stays as it is: dotted paths of modules, or ends or other whole parts of such paths.
    """

    double_quantization: bool = False
    compute_dtype: ComputeDtype = "auto"
    int8_threshold: float = 0.0
    skip_modules: tuple[str, ...] = ()

    def check(self, scheme: Scheme, *, stored: bool) -> None:
        """Errors: UnavailableOptionError for an option that `scheme` does not use, or that the `stored` weights fix."""
        given = {
            "--bnb-double-quantization": self.double_quantization,
            "--bnb-compute-dtype": self.compute_dtype != "auto",
            "--bnb-int8-threshold": self.int8_threshold != 0,
            "--quantization-skip-modules": bool(self.skip_modules),
        }
        for flag in (flag for flag, is_given in given.items() if is_given):
            schemes, says_how = _USES[flag]
            if scheme not in schemes:
                raise UnavailableOptionError(f"{flag} is for {', '.join(schemes)}; the quantization is {scheme}")
            if stored and says_how:
                raise UnavailableOptionError(f"{flag}: the model's weights are quantized already")
