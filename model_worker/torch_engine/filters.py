"""Which tokens top-k, top-p, min-p and typical-p keep among those of a window, each row by its own parameters.

`weights` are float64 [rows, width], in the order of the ids: probabilities up to a factor, the best of a row has 1. A
window is `settled` for a row where no token outside of it, each no better than the worst inside, is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from model_worker.sequence import SamplingParams
from model_worker.torch_engine.order import ascending, ascending_places
from model_worker.torch_engine.transfer import on_device


class Filters(NamedTuple):
    """The parameters of all rows, each a float64 column [rows, 1]."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    typical_p: torch.Tensor
    only_typical: torch.Tensor  # 1 where nothing but typical_p is set: it then looks at the whole vocabulary

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device) -> Filters:
        """Bring `params` to `device`."""
        numbers = [[row.top_k, row.top_p, row.min_p, row.typical_p, cls.is_only_typical(row)] for row in params]
        return cls(*on_device(numbers, torch.float64, device).unsqueeze(-1).unbind(1))

    @staticmethod
    def is_only_typical(params: SamplingParams) -> bool:
        """Whether typical_p is the one filter of a row."""
        return params.typical_p < 1 and params.top_k == 0 and params.top_p >= 1 and params.min_p <= 0


class Mass(NamedTuple):
    """Of the weights w of each row: float64 columns [rows, 1]."""

    total: torch.Tensor  # the sum of w
    spread: torch.Tensor  # the sum of -w ln w

    @classmethod
    def of(cls, weights: torch.Tensor) -> Mass:
        """Add up `weights`."""
        spread = torch.special.entr(weights).sum(dim=-1, keepdim=True)
        return cls(weights.sum(dim=-1, keepdim=True), spread)


def keep_best(weights: torch.Tensor, filters: Filters, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `weights` with 0 for what top-k, then top-p, then min-p drop, and which rows are settled (bool [rows, 1]).

    `total` is the weight of the whole vocabulary, in rows that have a top_p but no top_k. Each filter keeps so and so
    many of the best, which a search in the sorted weights tells, and the strictest of them decides.
    """
    width = weights.shape[1]
    ranked = ascending(weights)
    has_k = filters.top_k > 0
    kth = ranked.gather(1, (width - filters.top_k.long()).clamp(0, width - 1)).where(has_k, -1.0)
    in_k = _count_from(kth, ranked)
    sums = ranked.cumsum(dim=-1)
    out_of_k = sums.gather(1, (width - in_k - 1).clamp_min(0)).where(in_k < width, 0.0)
    total = (sums[:, -1:] - out_of_k).where(has_k, total)
    # The worst that weigh no more than this together are out; before them are those outside of the window or of top-k.
    beside_p = (1 - filters.top_p) * total - (total - sums[:, -1:])
    in_p = (width - torch.searchsorted(sums, beside_p, right=True)).where(filters.top_p < 1, width)
    count = torch.minimum(in_k, in_p).minimum(_count_from(filters.min_p, ranked)).clamp(1, width)
    edge = ranked.gather(1, width - count)
    # Where the last of the window equals the edge, it may have equals outside.
    last = ranked[:, :1]
    settled = ((last < edge) & (last != kth)) | (last == 0)
    return _keep_from(weights, edge, _count_from(edge, ranked) - count), settled


def keep_typical(weights: torch.Tensor, filters: Filters, of_all: Mass) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `weights` with 0 for what typical-p drops too, and which rows are settled though it is their only filter.

    Tokens are kept in the order of how near their surprise, -ln p, is to the entropy, until they reach `typical_p`.
    What is not in the window is more surprising than all of it, so it is out as soon as the window reaches beyond the
    last one kept. `of_all` is of the whole vocabulary, where typical_p is the only filter. The second result is bool
    [rows, 1].

    Source: Meister et al., Locally Typical Sampling, 2022.
    """
    only_typical = filters.only_typical > 0
    of_kept = Mass.of(weights)
    total = of_all.total.where(only_typical, of_kept.total)
    entropy = total.log() + of_all.spread.where(only_typical, of_kept.spread) / total
    excess = total.log() - weights.log() - entropy  # of surprise; infinite where the weight is 0
    distance = excess.abs()
    nearest_first = ascending_places(distance)
    reached = weights.gather(1, nearest_first).cumsum(dim=-1)
    missing = (reached < filters.typical_p * total).sum(dim=-1, keepdim=True)
    limit = distance.gather(1, nearest_first.gather(1, missing.clamp_max(weights.shape[1] - 1)))
    dropped = (distance > limit) & (filters.typical_p < 1)
    return weights.masked_fill(dropped, 0.0), only_typical & (excess.amax(dim=-1, keepdim=True) > limit)


def _count_from(bound: torch.Tensor, ranked: torch.Tensor) -> torch.Tensor:
    """Return how many of each row of `ranked`, which is ascending, are no less than its `bound`: int64 [rows, 1].

    Precondition: one is at least, or the row is not sound and whatever comes out of it is not used.
    """
    return (ranked.shape[1] - torch.searchsorted(ranked, bound.contiguous())).clamp_min(1)


def _keep_from(weights: torch.Tensor, edge: torch.Tensor, too_many: torch.Tensor) -> torch.Tensor:
    """Return `weights` from `edge` up and 0 for the others, and for the first so many of those that equal it."""
    equals = weights == edge
    first_equals = equals & (equals.cumsum(dim=-1, dtype=torch.int32) <= too_many.int())
    return torch.where((weights < edge) | first_equals, 0.0, weights)
