"""Sorted rows: by torch on a GPU, on a CPU by numpy, whose vector sorts take a twelfth to a third of torch's time."""

from __future__ import annotations

import numpy as np
import torch


def ascending(matrix: torch.Tensor) -> torch.Tensor:
    """Return each row of `matrix` sorted, the smallest first, NaN after all."""
    if matrix.device.type != "cpu":
        return matrix.sort(dim=-1).values
    return torch.from_numpy(np.sort(matrix.numpy(), axis=-1))


def ascending_places(matrix: torch.Tensor) -> torch.Tensor:
    """Return where the numbers of each row stand, the smallest first, NaN after all: int64, the shape of `matrix`."""
    if matrix.device.type != "cpu":
        return matrix.argsort(dim=-1)
    return torch.from_numpy(np.argsort(matrix.numpy(), axis=-1))
