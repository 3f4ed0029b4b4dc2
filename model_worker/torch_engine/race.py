"""The draw of one token among weights: an exponential race, in two heats.

Of exponential variables with rates w, the one of rate w_i is the first with probability w_i / sum(w). Each token's
variable is a hash of (seed, position, token), and its weight touches no other token's time: where rounding changes all
weights by a factor of 1 + d, another token wins with a probability of about d, however many tokens there are. (Along a
cumulative sum, every border between two tokens moves, and tens of thousands of borders are met far more often.)

A number for every token of the vocabulary would cost more than all else in the draw. So the first heat is between
blocks of 64 neighbouring ids, each with the sum of its weights, and the second between the tokens of the first block.

Source: the race is the Gumbel-max trick on another scale (Maddison, Tarlow, Minka: A* Sampling, 2014).
"""

from __future__ import annotations

import torch

_BLOCK = 64  # ids
_TOKENS_FROM = 2**32  # racers: a block has its number, a token this plus its id
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as int64, whose arithmetic is modulo 2^64 too
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64


def first_of_all(keys: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return who wins each row of `weights` (float64 [rows, vocabulary], none negative): ids, int64 [rows].

    `keys` are int64 [rows, 1], the bits of `rpc.seeds.hash64(seed, position)`. A weight of 0 never wins, unless the row
    has no other; of a row with NaN any id may come out.
    """
    vocabulary = weights.shape[1]
    whole = vocabulary // _BLOCK * _BLOCK
    sums = weights[:, :whole].reshape(len(weights), -1, _BLOCK).sum(dim=-1)
    if whole < vocabulary:
        sums = torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=1)
    ids = _first_block(keys, sums) * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = ids.clamp_max(vocabulary - 1)
    contenders = weights.gather(1, inside).where(ids < vocabulary, 0.0)
    return _first(keys, _TOKENS_FROM + ids, contenders, ids)


def first_of_some(keys: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return who wins where `weights` [rows, some] are those of `ids` (int64 [rows, some]), and all others 0."""
    blocks = ids // _BLOCK
    sums = weights.new_zeros(len(weights), -(-vocabulary // _BLOCK)).scatter_add_(1, blocks, weights)
    contenders = weights.where(blocks == _first_block(keys, sums), 0.0)
    return _first(keys, _TOKENS_FROM + ids, contenders, ids)


def _first_block(keys: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """Return the block that wins each row of `sums` [rows, blocks]: int64 [rows, 1]."""
    numbers = torch.arange(sums.shape[1], device=sums.device).expand_as(sums)
    return _first(keys, numbers, sums, numbers).unsqueeze(1)


def _first(keys: torch.Tensor, racers: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return which of `ids` arrives first in each row; `racers` are what their times are made of, all [rows, some]."""
    times = -_numbers(keys, racers).log_() / weights
    return ids.gather(1, times.argmin(dim=1, keepdim=True)).squeeze(1)


def _numbers(keys: torch.Tensor, racers: torch.Tensor) -> torch.Tensor:
    """Return the number of each racer: float64 in (0, 1), the middle of one of 2^52 equal parts."""
    hashes = _finalise(keys + _GOLDEN_GAMMA * (racers + 1))
    return ((hashes >> 12 & 2**52 - 1).double() + 0.5) * 2.0**-52


def _finalise(numbers: torch.Tensor) -> torch.Tensor:
    """Return the finaliser of splitmix64 (`rpc.seeds`) of int64 `numbers`: their shifts have to be told of the sign."""
    numbers = (numbers ^ (numbers >> 30 & 2**34 - 1)) * _FIRST_FACTOR
    numbers = (numbers ^ (numbers >> 27 & 2**37 - 1)) * _SECOND_FACTOR
    return numbers ^ (numbers >> 31 & 2**33 - 1)
