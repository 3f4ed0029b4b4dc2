"""Int8Linears as compiled code has them: the same numbers, laid out for our C++."""

from __future__ import annotations

import torch
from torch import nn

from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.native import NativeProducts, native_products
from model_worker.torch_engine.native.library import NativeLibrary

_COMPARED_ROWS = 3


class PackedLinear(nn.Module):
    """What `layer` computes, to the bit, by `products`. It takes the layer's scale and bias over."""

    def __init__(self, layer: Int8Linear, products: NativeProducts) -> None:
        super().__init__()
        self.register_buffer("packed", products.pack(layer.weight))
        self.register_buffer("weight_scale", layer.weight_scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.float())
        self.packed: torch.Tensor
        self.weight_scale: torch.Tensor
        self.bias: torch.Tensor | None
        self._products = products

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] for `x` [..., in], in the dtype of `x`."""
        [out] = self._products.call(x, [self.packed], [self.weight_scale], [self.bias])
        return out


def pack_linears(model: nn.Module, library: NativeLibrary) -> None:
    """Replace each Int8Linear of `model` that `library` can compute, once they have shown that they compute the same.

    Errors: UnsupportedModelError when they do not.
    """
    products = native_products(library)
    if products is None:
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, Int8Linear) and products.supports(module.weight):
            packed = PackedLinear(module, products)
            rows = torch.randn(_COMPARED_ROWS, module.in_features, generator=torch.Generator().manual_seed(0))
            if not torch.equal(packed(rows), module(rows)):
                raise UnsupportedModelError(f"{name}: our C++ does not compute what torch does (serve it uncompiled)")
            model.set_submodule(name, packed)
