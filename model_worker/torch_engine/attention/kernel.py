"""What every attention kernel is given. It computes one layer of one step; which one, its engine has chosen."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from model_worker.torch_engine.kv_storage import LayerStorage
from model_worker.torch_engine.step_layout import StepLayout


class Options(NamedTuple):
    """How one layer attends. `sinks` has one logit per query head; `window` counts the query itself.

    A tuple, because one is made in every layer of every step.
    """

    scaling: float | None  # None: one over the square root of the head's size
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


class Heads(NamedTuple):
    """The tokens of one step in one layer: `query` [heads, T, size], `key` [kv_heads, T, size], `value` likewise."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


class AttentionKernel(Protocol):
    """Stores the step's keys and values, and attends each query to the history of its own sequence, nothing else."""

    def __call__(self, heads: Heads, store: LayerStorage, layout: StepLayout, options: Options) -> torch.Tensor:
        """Return [T, heads, value_size]."""
        ...


def grouped(heads: Heads) -> torch.Tensor:
    """Return the queries by the key head that they share: [kv_heads, group, T, size]."""
    _heads, tokens, size = heads.query.shape
    return heads.query.reshape(heads.key.shape[0], -1, tokens, size)
