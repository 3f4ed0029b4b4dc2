"""Numbers on their way from the host to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt
import torch

Numbers: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | npt.NDArray[Any]


def on_device(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return `numbers` as a tensor on `device`.

    An ordinary copy to a GPU would first wait for everything that was asked of it, the model's step included.
    """
    return torch.as_tensor(numbers, dtype=dtype).to(device, non_blocking=True)


def take_rows(matrix: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return these `rows` of `matrix`, ascending: itself where they are all, else a copy."""
    if len(rows) == len(matrix):
        return matrix
    return matrix.index_select(0, on_device(rows, torch.int64, matrix.device))
