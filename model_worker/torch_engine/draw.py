"""From logits to tokens: greedy rows take the best one, sampling rows the one that wins the race of (seed, position).

All rows are done together, and what is drawn comes from the device in one transfer. Only where the filters of a row
keep more tokens than were looked at is that row drawn once more, among more of them.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Mapping
from typing import TypeAlias

import torch

from model_worker.engine import Draw, RowFailure
from model_worker.sequence import SamplingParams, Sequence
from model_worker.torch_engine.adjustments import adjust
from model_worker.torch_engine.best import peak
from model_worker.torch_engine.isolation import fail_alone
from model_worker.torch_engine.logprobs import read, score
from model_worker.torch_engine.race import first_of_all, first_of_some
from model_worker.torch_engine.sampling import first_width, next_width, weigh_all, weigh_best
from model_worker.torch_engine.transfer import on_device, take_rows
from rpc.seeds import hash64

Rows: TypeAlias = collections.abc.Sequence[Sequence]

NOT_NUMBERS = RowFailure("LOGITS_NOT_FINITE", "The model's output for this row is not a number.")
_UNSOUND, _UNSETTLED = -1, -2  # in place of a token


def draw_tokens(logits: torch.Tensor, sequences: Rows) -> list[Draw | RowFailure]:
    """Draw the next token of each sequence from its row of `logits` ([rows, vocabulary]), which stay as they are.

    A row with NaN or +inf, or in which nothing may be drawn, fails alone; so does one whose parameters raise an
    exception. Errors: OutOfMemory.
    """
    return fail_alone(
        lambda rows: _draw(take_rows(logits, rows), [sequences[row] for row in rows]), range(len(sequences))
    )


def sample(
    logits: torch.Tensor, params: collections.abc.Sequence[SamplingParams], positions: list[int], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row among its `width` best, or with 0 among all: the winner of the race of `race`.

    A row's race is that of `rpc.seeds.hash64(seed, position)` with the position of the token drawn. Returns the tokens
    (int64 [rows]) and whether they hold (bool [rows]): where not, the width was too little. Rows that are not sound get
    any token.
    """
    hashes = [_signed(hash64(row.seed, position)) for row, position in zip(params, positions, strict=True)]
    keys = on_device(hashes, torch.int64, logits.device).unsqueeze(1)
    vocabulary = logits.shape[1]
    if width == 0:
        return first_of_all(keys, weigh_all(logits, params)), torch.ones_like(keys.squeeze(1), dtype=torch.bool)
    window = weigh_best(logits, params, width)
    if width == vocabulary:
        return first_of_all(keys, window.weights), window.settled
    return first_of_some(keys, window.ids, window.weights, vocabulary), window.settled


def _draw(logits: torch.Tensor, sequences: Rows) -> list[Draw | RowFailure]:
    adjusted = adjust(logits, sequences)
    outcomes: dict[int, Draw | RowFailure] = {}
    widths = {index: _first_width(row, logits.shape[1]) for index, row in enumerate(sequences)}
    while widths:
        attempts = _attempt(logits, adjusted, sequences, widths)
        outcomes |= {row: outcome for row, outcome in attempts.items() if outcome is not None}
        widths = {row: next_width(width, logits.shape[1]) for row, width in widths.items() if row not in outcomes}
    return [outcomes[row] for row in range(len(sequences))]


def _attempt(
    logits: torch.Tensor, adjusted: torch.Tensor, sequences: Rows, widths: Mapping[int, int]
) -> dict[int, Draw | RowFailure | None]:
    """Draw the rows in `widths`, each among its so many best tokens. None: they were not enough.

    `logits` are what the model said, `adjusted` what is drawn from.
    """
    rows = list(widths)
    place = {row: place for place, row in enumerate(rows)}
    # NaN wins every comparison, so the peak tells whether a row is sound.
    peaks, tokens = peak(take_rows(adjusted, rows))
    settled = torch.ones_like(tokens, dtype=torch.bool)
    sampling = [row for row in rows if sequences[row].params.sampling.temperature > 0]
    for width in sorted({widths[row] for row in sampling}):
        members = [row for row in sampling if widths[row] == width]
        params = [sequences[row].params.sampling for row in members]
        positions = [len(sequences[row].ids) for row in members]
        places = on_device([place[row] for row in members], torch.int64, logits.device)
        tokens[places], settled[places] = sample(take_rows(adjusted, members), params, positions, width)
    told = tokens.where(settled, _UNSETTLED).where(peaks.isfinite(), _UNSOUND)
    wishes = {row: sequences[row].params.logprobs for row in rows}
    return dict(zip(rows, _outcomes(told, tokens, logits, wishes), strict=True))


def _outcomes(
    told: torch.Tensor, tokens: torch.Tensor, logits: torch.Tensor, wishes: Mapping[int, int | None]
) -> list[Draw | RowFailure | None]:
    """Bring what was drawn to the host, with the log-probabilities that rows ask for, in one transfer.

    `told` and `tokens` have an entry for each row in `wishes`, which says how many alternatives it asks for, if any.
    """
    counts = {place: count for place, count in enumerate(wishes.values()) if count is not None}
    if not counts:
        return [_outcome(token) for token in told.tolist()]
    wanting = take_rows(logits, [row for row, count in wishes.items() if count is not None])
    scored = score(wanting, take_rows(tokens, list(counts)), max(counts.values()))
    packed = torch.cat([told.to(torch.float64), scored.flatten()]).tolist()
    outcomes = [_outcome(int(token)) for token in packed[: len(wishes)]]
    columns = scored.shape[1]
    for line, (place, count) in enumerate(counts.items()):
        drawn, start = outcomes[place], len(wishes) + line * columns
        if isinstance(drawn, Draw):
            outcomes[place] = Draw(drawn.token_id, read(packed[start : start + columns], drawn.token_id, count))
    return outcomes


def _outcome(told: int) -> Draw | RowFailure | None:
    if told == _UNSETTLED:
        return None
    return NOT_NUMBERS if told == _UNSOUND else Draw(told)


def _first_width(row: Sequence, vocabulary: int) -> int:
    return first_width(row.params.sampling, vocabulary) if row.params.sampling.temperature > 0 else 0


def _signed(bits: int) -> int:
    """Return the int64 with the bits of a uint64."""
    return bits - 2**64 if bits >= 2**63 else bits
