"""What a loaded model weighs, by dtype, and how much of it a quantization scheme left alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from model_worker.torch_engine.bitsandbytes_layers import is_bitsandbytes, scales

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
    held = _distinct([*model.parameters(), *model.buffers()])
    quantized_layers = [module for module in model.modules() if is_bitsandbytes(module)]
    bytes_by_dtype: Counter[str] = Counter()
    for tensor in _distinct(
        [*held.values(), *(scale for module in quantized_layers for scale in scales(module))]
    ).values():
        bytes_by_dtype[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    # Packed, a weight of bitsandbytes has neither the shape nor the dtype of the weights it stands for.
    packed = {module.weight.data_ptr(): module.in_features * module.out_features for module in quantized_layers}
    embeddings = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [held[at] for at in held.keys() - packed.keys() - embeddings if held[at].dim() > 1]
    floating = sum(matrix.numel() for matrix in matrices if matrix.is_floating_point())
    quantized = sum(matrix.numel() for matrix in matrices if not matrix.is_floating_point()) + sum(packed.values())
    return WeightReport(dict(bytes_by_dtype), floating / max(1, floating + quantized))


def _distinct(tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return `tensors` by address: a shared one once, an empty one not at all."""
    return {tensor.data_ptr(): tensor for tensor in tensors if tensor.numel()}
