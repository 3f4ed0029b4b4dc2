"""Int8 linear layers in C++ (`native/products.cpp`): several layers of the same input in one call.

torch's product wants the rows quantized, and leaves integers to be scaled: two passes over memory more, and each of
them wakes the other threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain

import torch
from torch.nn.functional import pad

from model_worker.torch_engine.native.library import NativeLibrary
from model_worker.torch_engine.opaque_operator import OpaqueOperator

_LARGEST_IN_FEATURES = 2**16  # sums of products of a byte and 127 stay below 2^31
_NUMBERS = 4  # inputs that stand side by side in packed weights
_SCHEMA = "(Tensor x, Tensor[] packed, Tensor[] scales, Tensor?[] biases) -> Tensor[]"


class NativeProducts:
    """The operator `int8_linears`.

    It returns what each of several layers makes of `x` [..., in]: a list of [..., out] in the same dtype. A layer is
    its weights as `pack` lays them out, its `weight_scale` [out], and its bias [out] or None, both float32.
    """

    def __init__(self, library: NativeLibrary) -> None:
        self._panel = ctypes.c_int64.in_dll(library.functions, "int8_panel").value  # what suits the processor
        self._function = library.functions.int8_linears
        self._function.restype = None
        self._function.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_int64,
        ]
        self._operator = OpaqueOperator("int8_linears", _SCHEMA, self._compute, _like_linears)
        self.call: Callable[..., list[torch.Tensor]] = self._operator.call

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """Whether `weight` [out, in] can be packed."""
        return weight.device.type == "cpu" and weight.shape[1] <= _LARGEST_IN_FEATURES

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Return `weight`, int8 [out, in], as the code reads it: uint8 [out / panel, in / 4, panel, 4].

        In it stands w + 128, and zeros around.
        """
        out_features, in_features = weight.shape
        padded = pad(weight, (0, -in_features % _NUMBERS, 0, -out_features % self._panel))
        panels = padded.view(torch.uint8).bitwise_xor(128).view(-1, self._panel, padded.shape[1] // _NUMBERS, _NUMBERS)
        return panels.transpose(1, 2).contiguous()

    def _compute(
        self,
        x: torch.Tensor,
        packed: Sequence[torch.Tensor],
        scales: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor | None],
    ) -> list[torch.Tensor]:
        rows = x.float().contiguous()
        size = x.shape[-1]
        outs = [rows.new_empty(*x.shape[:-1], scale.shape[0]) for scale in scales]
        layers = tuple(
            chain.from_iterable(
                (
                    weights.data_ptr(),
                    scale.data_ptr(),
                    0 if bias is None else bias.data_ptr(),
                    out.data_ptr(),
                    scale.shape[0],
                )
                for weights, scale, bias, out in zip(packed, scales, biases, outs, strict=True)
            )
        )
        if rows.numel():
            self._function(
                rows.data_ptr(),
                rows.numel() // size,
                size,
                (ctypes.c_int64 * len(layers))(*layers),  # five numbers of 8 bytes each: what `Linear` is
                len(outs),
            )
        return outs if x.dtype == torch.float32 else [out.to(x.dtype) for out in outs]


@cache
def native_products(library: NativeLibrary) -> NativeProducts | None:
    """Return the products in `library`; the operator is for the whole process. None: not for this processor."""
    return NativeProducts(library) if hasattr(library.functions, "int8_linears") else None


def _like_linears(
    x: torch.Tensor, _packed: Sequence[torch.Tensor], scales: Sequence[torch.Tensor], _biases: object
) -> list[torch.Tensor]:
    """Return what `NativeProducts` does, without its contents."""
    return [x.new_empty(*x.shape[:-1], scale.shape[0]) for scale in scales]
