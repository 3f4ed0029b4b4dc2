"""What changes single logits of a row before anything is drawn: bias, penalties, and the ban before min_new_tokens.

The order is that of transformers' `generate()`: bias, repetition penalty, ban; it has no presence and no frequency
penalty, which come before the ban. Only the entries concerned are touched, those of all rows together. They are found
anew in every step in the ids that each sequence holds anyway: there is no state that could fall out of step.
"""

from __future__ import annotations

import collections.abc
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from model_worker.sequence import Sequence
from model_worker.torch_engine.transfer import on_device

Rows: TypeAlias = collections.abc.Sequence[Sequence]


class _Change(NamedTuple):
    """A number for each of some tokens of one row, no token twice unless with the same number."""

    ids: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64]


def adjust(logits: torch.Tensor, sequences: Rows) -> torch.Tensor:
    """Return what the rows' parameters make of `logits` ([rows, vocabulary]), which stay as they are.

    They are returned themselves where no row asks for anything; else it is a copy in float32 or better, because a
    small penalty would be lost among the few digits of a bfloat16.
    """
    adjusted = logits
    for changes, apply in (
        ([_bias(row) for row in sequences], _add),
        ([_repetition_penalty(row) for row in sequences], _penalise),
        ([_occurrence_penalties(row) for row in sequences], _add),
        ([_ban(row) for row in sequences], _add),
    ):
        if any(changes):
            if adjusted is logits:
                adjusted = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
            apply(adjusted, *_entries(changes, adjusted))
    return adjusted


def _bias(row: Sequence) -> _Change | None:
    bias = row.params.sampling.logit_bias
    if not bias:
        return None
    pairs = np.fromiter(chain.from_iterable(bias), np.float64, 2 * len(bias)).reshape(-1, 2)
    return _Change(pairs[:, 0].astype(np.int64), pairs[:, 1])


def _repetition_penalty(row: Sequence) -> _Change | None:
    penalty = row.params.sampling.repetition_penalty
    if penalty == 1:
        return None
    return _Change(np.array(row.ids, np.int64), np.full(len(row.ids), penalty))


def _occurrence_penalties(row: Sequence) -> _Change | None:
    """Return -(presence + frequency * count) for each token that was generated, as OpenAI's API defines them."""
    sampling = row.params.sampling
    if (sampling.presence_penalty == 0 and sampling.frequency_penalty == 0) or not row.generated_tokens:
        return None
    ids, counts = np.unique(np.array(row.ids[row.prompt_tokens :], np.int64), return_counts=True)
    return _Change(ids, -sampling.presence_penalty - sampling.frequency_penalty * counts.astype(np.float64))


def _ban(row: Sequence) -> _Change | None:
    """Return what may not end a row before its `min_new_tokens`."""
    if row.generated_tokens >= row.params.min_new_tokens or not row.banned_ids:
        return None
    return _Change(np.array(list(row.banned_ids), np.int64), np.full(len(row.banned_ids), -np.inf))


def _entries(
    changes: collections.abc.Sequence[_Change | None], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows, the ids and the numbers of all changes, each [entries], in one transfer to the device."""
    concerned = [(row, change) for row, change in enumerate(changes) if change is not None]
    rows = np.repeat([row for row, _ in concerned], [len(change.ids) for _, change in concerned])
    ids = np.concatenate([change.ids for _, change in concerned])
    numbers = np.concatenate([change.numbers for _, change in concerned])
    inside = ids < like.shape[1]  # a prompt may hold ids that a smaller output head does not have
    on_host = np.stack([rows.astype(np.float64), ids.astype(np.float64), numbers])[:, inside]
    entries = on_device(on_host, torch.float64, like.device)
    return entries[0].long(), entries[1].long(), entries[2].to(like.dtype)


def _add(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, numbers: torch.Tensor) -> None:
    logits[rows, ids] += numbers


def _penalise(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, penalties: torch.Tensor) -> None:
    """Make tokens less probable by a penalty above 1: one that occurs twice in a row is not penalised twice.

    Source: Keskar et al., CTRL, 2019; for logits below 0 as in transformers.
    """
    values = logits[rows, ids]
    logits[rows, ids] = torch.where(values < 0, values * penalties, values / penalties)
