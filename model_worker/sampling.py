"""What the sampling parameters make of logits: temperature, then top-k, then top-p, row by row, vectorised.

The order and the edge cases are those of transformers' logits warpers: tokens equal to the k-th best stay, top-p keeps
the smallest set of best tokens whose probabilities reach `top_p` and at least one, and among equals at its edge those
with the higher ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_worker.sequence import SamplingParams

# A full sort of a large vocabulary costs milliseconds a row; almost every nucleus lies within this many best tokens.
_NUCLEUS_GUESS = 1024


def filtered_logits(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Return logits (float64 [rows, vocabulary]) with what must not be drawn at -inf; softmax makes them the law.

    Every row of `params` has a temperature above zero. `logits` may have any floating dtype; the work is float64.
    """
    exact = logits.to(torch.float64, copy=True)
    # Subtracting the peak changes no probability, and keeps a tiny temperature from overflowing.
    exact -= exact.amax(dim=-1, keepdim=True)
    exact /= _column([row.temperature for row in params], exact)
    vocabulary = exact.shape[1]
    for_top_k = [index for index, row in enumerate(params) if 0 < row.top_k < vocabulary]
    if for_top_k:
        exact[for_top_k] = _best(exact[for_top_k], [params[index].top_k for index in for_top_k])
    for_top_p = [index for index, row in enumerate(params) if row.top_p < 1.0]
    if for_top_p:
        exact[for_top_p] = _nucleus(exact[for_top_p], [params[index].top_p for index in for_top_p], _NUCLEUS_GUESS)
    return exact


def _best(logits: torch.Tensor, top_k: list[int]) -> torch.Tensor:
    """Keep what is at least as good as the `top_k`-th best token of its row."""
    ranked = logits.topk(max(top_k), dim=-1).values
    places = torch.tensor(top_k, device=logits.device).unsqueeze(1) - 1
    return logits.masked_fill(logits < ranked.gather(1, places), -torch.inf)


def _nucleus(logits: torch.Tensor, top_p: list[float], guess: int) -> torch.Tensor:
    """Keep each row's nucleus, looked for among the `guess` best tokens first and among all where that is too few."""
    width = min(guess, logits.shape[1])
    ranked = logits.topk(width, dim=-1).values
    probabilities = torch.exp(ranked - logits.logsumexp(dim=-1, keepdim=True))
    reached = probabilities.cumsum(dim=-1)
    goal = _column(top_p, logits)
    if width < logits.shape[1] and bool((reached[:, -1:] < goal).any()):
        return _nucleus(logits, top_p, logits.shape[1])
    kept = ((reached - probabilities) < goal).sum(dim=-1, keepdim=True).clamp_min(1)
    edge = ranked.gather(1, kept - 1)
    equals = logits == edge
    too_many = (logits >= edge).sum(dim=-1, keepdim=True) - kept
    dropped = equals & (equals.cumsum(dim=-1) <= too_many)
    return logits.masked_fill((logits < edge) | dropped, -torch.inf)


def _column(numbers: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).unsqueeze(1)
