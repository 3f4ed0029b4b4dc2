"""What a loaded model weighs, by dtype, and how much of it a quantization scheme left alone."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

_TOLERATED_SHARE = 0.2
_log = logging.getLogger("tokenmill.worker.load")


@dataclass(frozen=True, slots=True)
class WeightReport:
    """`unquantized_share` is the fraction of the weights still in floating point, embeddings not counted."""

    bytes_by_dtype: dict[str, int]
    unquantized_share: float

    @property
    def total_bytes(self) -> int:
        """Everything the model holds: parameters and buffers, shared ones once."""
        return sum(self.bytes_by_dtype.values())

    def log(self, scheme: str) -> None:
        """Log one line of sizes, and a warning when `scheme` missed a good part of the weights."""
        sizes = ", ".join(f"{dtype} {size / 2**20:.1f} MiB" for dtype, size in sorted(self.bytes_by_dtype.items()))
        _log.info("weights: %s", sizes)
        if scheme != "none" and self.unquantized_share > _TOLERATED_SHARE:
            _log.warning(
                "%s left %.0f %% of the weights unquantized (for example fused experts, which it does not know)",
                scheme,
                100 * self.unquantized_share,
            )


def weigh(model: nn.Module) -> WeightReport:
    """Count the bytes and the weights of `model`."""
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()] if tensor.numel()}
    bytes_by_dtype: Counter[str] = Counter()
    for tensor in tensors.values():
        bytes_by_dtype[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    embeddings = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [
        parameter for parameter in tensors.values() if parameter.dim() > 1 and parameter.data_ptr() not in embeddings
    ]
    floating = sum(matrix.numel() for matrix in matrices if matrix.is_floating_point())
    quantized = sum(_weights_in(matrix) for matrix in matrices if not matrix.is_floating_point())
    return WeightReport(dict(bytes_by_dtype), floating / max(1, floating + quantized))


def _weights_in(matrix: torch.Tensor) -> int:
    """Return how many weights a quantized matrix stands for: bitsandbytes packs two 4-bit ones into a byte."""
    return matrix.numel() * (2 if matrix.dtype == torch.uint8 else 1)
