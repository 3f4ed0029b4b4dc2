"""What the sampling parameters make of logits: temperature, then top-k, then top-p, row by row, vectorised.

The order and the edge cases are those of transformers' logits warpers: tokens equal to the k-th best stay, top-p keeps
the smallest set of best tokens whose probabilities reach `top_p` and at least one, and among equals at its edge those
with the higher ids. The work is in place where it can be: at these sizes fresh memory costs more than arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_worker.sequence import SamplingParams

# A full sort of a large vocabulary costs milliseconds a row, and most nuclei are small: look among this many best
# tokens first, and among this many times more as long as that is too few.
_NUCLEUS_GUESS = 64
_NUCLEUS_GROWTH = 8


def sampling_weights(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return the probabilities of the next token up to a factor per row: float64 [rows, vocabulary], 0 = never drawn.

    `logits` may have any floating dtype and stay as they are. Every row of `params` has a temperature above zero.
    """
    weights = logits.to(torch.float64, copy=True)
    # Subtracting the peak changes no probability, and keeps a tiny temperature from overflowing.
    weights -= weights.amax(dim=-1, keepdim=True)
    weights /= _column([row.temperature for row in params], weights)
    weights.exp_()
    top_k = [min(row.top_k, weights.shape[1]) for row in params]
    if any(top_k):
        _keep_best(weights, top_k)
    top_p = [row.top_p for row in params]
    if min(top_p) < 1.0:
        _keep_nuclei(weights, top_p)
    return weights


def _keep_best(weights: torch.Tensor, top_k: list[int]) -> None:
    """Keep what is at least as good as the `top_k`-th best token of its row; 0 keeps all."""
    ranked = weights.topk(max(top_k), dim=-1).values
    places = torch.tensor(top_k, device=weights.device).unsqueeze(1)
    edges = ranked.gather(1, (places - 1).clamp_min(0)).masked_fill_(places == 0, 0.0)
    weights.masked_fill_(weights < edges, 0.0)


def _keep_nuclei(weights: torch.Tensor, top_p: list[float]) -> None:
    """Keep each row's nucleus; 1 keeps all."""
    goals = weights.sum(dim=-1, keepdim=True) * _column(top_p, weights)
    edges = torch.zeros_like(goals)
    rows = [row for row, share in enumerate(top_p) if share < 1.0]
    width = _NUCLEUS_GUESS
    while rows:
        width = min(width, weights.shape[1])
        ranked = weights[rows].topk(width, dim=-1).values
        before = ranked.cumsum(dim=-1) - ranked  # what the better ones weigh together
        needed = before < goals[rows]
        needed[:, 0] = True
        kept = needed.sum(dim=-1, keepdim=True)
        edges[rows] = ranked.gather(1, kept - 1)
        following = ranked.gather(1, kept.clamp_max(width - 1))
        too_few = needed[:, -1:] & (width < weights.shape[1])
        equals_follow = (following == edges[rows]) & (kept < width)
        told = torch.cat((kept, too_few, equals_follow), dim=1).tolist()  # one transfer from the device
        for row, (count, is_too_few, has_equals) in zip(rows, told, strict=True):
            if has_equals and not is_too_few:
                _drop_lower_equals(weights[row], edges[row], count)
        rows = [row for row, (_, is_too_few, _) in zip(rows, told, strict=True) if is_too_few]
        width *= _NUCLEUS_GROWTH
    weights.masked_fill_(weights < edges, 0.0)


def _drop_lower_equals(weights: torch.Tensor, edge: torch.Tensor, kept: int) -> None:
    """Drop the lowest ids among those of one row that equal its `edge`, until `kept` tokens are left from it up."""
    too_many = (weights >= edge).sum() - kept
    equals = weights == edge
    weights.masked_fill_(equals & (equals.cumsum(dim=-1) <= too_many), 0.0)


def _column(numbers: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).unsqueeze(1)
