"""What the sampling parameters make of logits: temperature, top-k, top-p, min-p, typical-p, row by row, vectorised.

The order and the edge cases are those of transformers' logits warpers: tokens equal to the k-th best stay, top-p keeps
the smallest set of best tokens whose probabilities reach `top_p` and at least one, and among equals at its edge those
with the higher ids.

What the filters keep is nearly always among a few best tokens, so only those are looked at first: a window. A row
whose window cannot tell everything says so and has to be given a wider one; the widest is the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from model_worker.sequence import SamplingParams
from model_worker.torch_engine.best import best
from model_worker.torch_engine.filters import Filters, Mass, keep_best, keep_typical
from model_worker.torch_engine.transfer import on_device, take_rows

_WIDTHS = (64, 512)  # then the whole: sorting that is not much dearer than finding the best thousands in it


class Window(NamedTuple):
    """The best tokens of each row, and what the filters left of them."""

    ids: torch.Tensor  # int64 [rows, width], ascending
    weights: torch.Tensor  # float64 [rows, width]: the probabilities up to a factor per row, 0 = never drawn
    settled: torch.Tensor  # bool [rows]: whatever is not in the window has the weight 0


def first_width(params: SamplingParams, vocabulary: int) -> int:
    """Return how wide a window to look at first; 0 where nothing is filtered and none is needed."""
    if params.top_k == 0 and params.top_p >= 1 and params.min_p <= 0 and params.typical_p >= 1:
        return 0
    return next_width(params.top_k, vocabulary)


def next_width(width: int, vocabulary: int) -> int:
    """Return how wide a window to look at where `width` is too little."""
    return next((wider for wider in _WIDTHS if width < wider < vocabulary), vocabulary)


def weigh_all(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return what temperature alone makes of `logits`: weights like a window's, of the whole vocabulary.

    `logits` may have any floating dtype and stay as they are. Every row of `params` has a temperature above zero.
    """
    return _exponents(logits, params).exp_()


def weigh_best(logits: torch.Tensor, params: Sequence[SamplingParams], width: int) -> Window:
    """Return what the filters leave of the `width` best tokens: more than any row's top_k, or the whole vocabulary."""
    is_whole = width == logits.shape[1]
    if is_whole:
        ids = torch.arange(width, device=logits.device).expand_as(logits)
        weights, of_all = _weigh(_exponents(logits, params), params)
    else:
        values, unordered = best(logits, width)
        ids, order = unordered.sort(dim=-1)
        weights = weigh_all(values.gather(1, order), params)
        of_all = _mass_of_all(logits, params)
    filters = Filters.of(params, logits.device)
    weights, settled = keep_best(weights, filters, of_all.total)
    if any(row.typical_p < 1 for row in params):
        weights, told = keep_typical(weights, filters, of_all)
        settled |= told
    return Window(ids, weights, (settled | is_whole).squeeze(1))


def _mass_of_all(logits: torch.Tensor, params: Sequence[SamplingParams]) -> Mass:
    """Return the mass of the whole vocabulary for the rows whose filters ask for it, 0 for the others."""
    total, spread = torch.zeros(2, len(params), 1, dtype=torch.float64, device=logits.device)
    rows = [i for i, row in enumerate(params) if row.top_k == 0 and (row.top_p < 1 or Filters.is_only_typical(row))]
    if rows:
        asking = [params[row] for row in rows]
        places = on_device(rows, torch.int64, logits.device)
        _, (total[places], spread[places]) = _weigh(_exponents(take_rows(logits, rows), asking), asking)
    return Mass(total, spread)


def _weigh(exponents: torch.Tensor, params: Sequence[SamplingParams]) -> tuple[torch.Tensor, Mass]:
    """Return the weights of whole rows and their mass; no spread where no filter of theirs asks for it.

    The weights may take the place of the `exponents`.
    """
    if not any(Filters.is_only_typical(row) for row in params):
        weights = exponents.exp_()
        total = weights.sum(dim=-1, keepdim=True)
        return weights, Mass(total, torch.zeros_like(total))
    exponents.clamp_min_(-800.0)  # of weight 0 as before, but 0 times it is not NaN
    weights = exponents.exp()
    spread = -torch.linalg.vecdot(weights, exponents).unsqueeze(1)
    return weights, Mass(weights.sum(dim=-1, keepdim=True), spread)


def _exponents(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return `logits` over temperature in float64, each row's best at 0.

    Subtracting the peak changes no probability, and keeps a tiny temperature from overflowing. The work is in place:
    at these sizes fresh memory costs more than arithmetic.
    """
    exponents = logits.to(torch.float64, copy=True)
    exponents -= logits.amax(dim=-1, keepdim=True)
    exponents /= on_device([row.temperature for row in params], torch.float64, logits.device).unsqueeze(1)
    return exponents
