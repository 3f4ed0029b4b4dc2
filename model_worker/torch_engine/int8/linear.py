"""An 8-bit linear layer over `torch._int_mm`: weights int8 per output channel, activations int8 per token.

Both are symmetric and the products are summed in int32 without any rounding, so that a token's result depends neither
on the other tokens of the step nor on their number.
"""

from __future__ import annotations

import torch
from torch import nn

# cuBLAS takes int8 matrices of more than 16 rows only, and sizes that are multiples of 8.
_CUDA_LEAST_ROWS = 17
_CUDA_SIZE_MULTIPLE = 8
_ROWS_AT_ONCE = 4096  # of a weight that is quantized
_STEPS = 127.0  # -127..127; -128 stays unused, so that the scale is symmetric
_SMALLEST_PEAK = 1e-30  # a row of zeros stays zero instead of 0/0


class Int8Linear(nn.Module):
    """y = x Wᵀ + b with W in int8. Replaces a trained `nn.Linear`; it cannot be trained.

    `weight` is int8 [out, in], `weight_scale` float32 [out], `bias` [out] or None. Results have the input's dtype.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # In blocks: on the way an output head would take several times the memory that it has in float32.
        blocks = [_quantized(block) for block in torch.split(weight.detach(), _ROWS_AT_ONCE)]
        self.register_buffer("weight", torch.cat([quantized for quantized, _ in blocks]))
        self.register_buffer("weight_scale", torch.cat([scale for _, scale in blocks]))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.weight: torch.Tensor
        self.weight_scale: torch.Tensor
        self.bias: torch.Tensor | None

    @staticmethod
    def supports(weight: torch.Tensor, device: torch.device) -> bool:
        """Whether `weight` [out, in] has sizes that the int8 product of `device` accepts."""
        if device.type == "cpu":
            return weight.shape[1] > 1  # torch 2.13 computes nonsense for one
        return all(size % _CUDA_SIZE_MULTIPLE == 0 for size in weight.shape)

    def dequantized_weight(self) -> torch.Tensor:
        """Return the weights that the int8 ones stand for: float32 [out, in]."""
        return self.weight.float().mul_(self.weight_scale.unsqueeze(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] for `x` [..., in]. A row with NaN or infinity gives NaN, in that row only."""
        rows = x.reshape(-1, self.in_features).float()
        row_scale = rows.abs().amax(dim=1, keepdim=True).clamp_min_(_SMALLEST_PEAK).div_(_STEPS)
        quantized = rows.mul(row_scale.reciprocal()).round_().to(torch.int8)
        products = int8_product(quantized, self.weight, _CUDA_LEAST_ROWS if x.is_cuda else 1)
        out = products.float().mul_(row_scale).mul_(self.weight_scale)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


def _quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `weight` [out, in] in int8 and what each of its rows is scaled by, float32 [out]."""
    exact = weight.float()
    scale = exact.abs().amax(dim=1).clamp_min(_SMALLEST_PEAK) / _STEPS
    return torch.round(exact / scale.unsqueeze(1)).to(torch.int8).contiguous(), scale


def int8_product(rows: torch.Tensor, weight: torch.Tensor, least_rows: int) -> torch.Tensor:
    """Return `rows` [n, in] times `weight` [out, in] transposed, both int8, as int32 [n, out].

    Rows of zeros fill `rows` up to `least_rows` where the kernel wants more than there are.
    """
    count = rows.shape[0]
    if count < least_rows:
        rows = torch.cat((rows, rows.new_zeros(least_rows - count, rows.shape[1])))
    return torch._int_mm(rows, weight.t())[:count]  # noqa: SLF001 - torch offers the product under this name only
