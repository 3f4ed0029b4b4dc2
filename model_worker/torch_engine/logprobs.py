"""How probable tokens were under the model: log-softmax of its logits as they came, vectorised, for the contract."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_worker.engine import TokenLogprob
from model_worker.torch_engine.best import best


def score(logits: torch.Tensor, tokens: torch.Tensor, alternatives: int) -> torch.Tensor:
    """Return what `read` turns into TokenLogprobs, float64 [rows, 2 + 3 * alternatives], still on the device.

    `logits` ([rows, vocabulary], any floating dtype) stay as they are; `tokens` is int64 [rows]. A row holds the
    log-probability and the rank of its token, then the ids, log-probabilities and ranks of the most probable tokens.
    A row whose logits are not numbers has NaN in the first place.
    """
    alternatives = min(alternatives, logits.shape[1])
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normaliser = exact.logsumexp(dim=-1, keepdim=True)
    normaliser.masked_fill_(~normaliser.isfinite(), torch.nan)
    own = exact.gather(1, tokens.unsqueeze(1))
    # Ones in the logits' own dtype: summing booleans is four times as slow, and float32 counts to 2^24 exactly.
    better = torch.gt(exact, own, out=torch.empty_like(exact)).sum(dim=-1, keepdim=True)
    values, ids = best(exact, alternatives) if alternatives else (own[:, :0], tokens.unsqueeze(1)[:, :0])
    equal_or_worse = (values.unsqueeze(1) > values.unsqueeze(2)).sum(dim=-1)
    columns = [own - normaliser, better + 1, ids, values - normaliser, equal_or_worse + 1]
    return torch.cat([column.to(torch.float64) for column in columns], dim=1)


def read(scored: Sequence[float], token_id: int, alternatives: int) -> TokenLogprob:
    """Return one row of what `score` gave for `token_id`, with its first `alternatives`."""
    logprob, rank, *rest = scored
    count = len(rest) // 3
    ids, logprobs, ranks = rest[:count], rest[count : 2 * count], rest[2 * count :]
    best_first = zip(ids[:alternatives], logprobs, ranks, strict=False)
    return TokenLogprob(
        token_id,
        logprob,
        int(rank),
        tuple(TokenLogprob(int(other), theirs, int(place)) for other, theirs, place in best_first),
    )
