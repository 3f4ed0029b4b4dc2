"""From logits to tokens: greedy rows take the best one, sampling rows the one that (seed, position) points at."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from model_worker.engine import Draw, RowFailure
from model_worker.sequence import SamplingParams, Sequence
from model_worker.torch_engine.sampling import sampling_weights
from rpc.seeds import uniform

NOT_NUMBERS = RowFailure("LOGITS_NOT_FINITE", "The model's output for this row is not a number.")


def draw_tokens(logits: torch.Tensor, sequences: Rows[Sequence]) -> list[Draw | RowFailure]:
    """Draw the next token of each sequence from its row of `logits` ([rows, vocabulary], changed in place).

    A row with NaN or +inf, or in which nothing may be drawn, fails alone. One transfer from the device for all rows,
    and where a row has a top_p one more for each time that its nucleus is looked for among more tokens.
    """
    _ban(logits, sequences)
    peaks, tokens = logits.max(dim=-1)  # NaN wins every comparison, so the peak tells whether a row is sound
    sampling = [index for index, row in enumerate(sequences) if row.params.sampling.temperature > 0]
    if sampling:
        params = [sequences[index].params.sampling for index in sampling]
        positions = [len(sequences[index].ids) for index in sampling]
        tokens[sampling] = sample(logits[sampling], params, positions)
    sound = torch.isfinite(peaks)
    drawn = torch.where(sound, tokens, -1).tolist()
    return [Draw(token) if token >= 0 else NOT_NUMBERS for token in drawn]


def sample(logits: torch.Tensor, params: Rows[SamplingParams], positions: Rows[int]) -> torch.Tensor:
    """Draw one token per row (int64 [rows]): inverse CDF in float64, in the order of the vocabulary.

    The token is the first whose cumulative probability exceeds the row's number, `rpc.seeds.uniform(seed, position)`
    with the position of the token drawn. Rows that are not sound get any token.
    """
    cumulative = sampling_weights(logits, params).cumsum(dim=-1)
    numbers = [uniform(row.seed, position) for row, position in zip(params, positions, strict=True)]
    # The sum as it came out of the rounding is the last value, so that no number falls beyond the last token.
    points = torch.tensor(numbers, dtype=torch.float64, device=logits.device).unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, points, right=True).squeeze(1)
    return tokens.clamp_max(logits.shape[1] - 1)


def _ban(logits: torch.Tensor, sequences: Rows[Sequence]) -> None:
    """Put what may not end a row before its `min_new_tokens` out of reach."""
    banned = [
        (index, token)
        for index, row in enumerate(sequences)
        if row.generated_tokens < row.params.min_new_tokens
        for token in row.banned_ids
    ]
    if banned:
        rows, tokens = torch.tensor(banned, device=logits.device).unbind(1)
        logits[rows, tokens] = -torch.inf
