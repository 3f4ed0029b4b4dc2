"""The race against its definition in plain numbers, and how little of it rounding can turn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_worker.torch_engine.race import first_of_all, first_of_some
from rpc.seeds import hash64, number


def winner(seed: int, position: int, weights: list[float]) -> int:
    """As docs/seeds.md says it: blocks of 64 ids, then the tokens of the block that won."""
    key = hash64(seed, position)

    def first(racers: dict[int, float]) -> int:
        times = {racer: -math.log(number(key, racer)) / weight for racer, weight in racers.items() if weight > 0}
        return min(times, key=times.__getitem__)

    block = first({start // 64: sum(weights[start : start + 64]) for start in range(0, len(weights), 64)})
    ids = range(64 * block, min(64 * block + 64, len(weights)))
    return first({2**32 + id_: weights[id_] for id_ in ids}) - 2**32


def keys(*hashes: int) -> torch.Tensor:
    return torch.tensor([[bits - 2**64 if bits >= 2**63 else bits] for bits in hashes])


def random_weights(rows: int, vocabulary: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    logits = torch.randn(rows, vocabulary, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (logits * spread).exp()


@settings(max_examples=100, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    vocabulary=st.integers(1, 300),
    position=st.integers(0, 10_000),
    chosen=st.integers(0, 999),
    dropped=st.floats(0.0, 0.99),
)
def test_the_winner_is_that_of_the_definition_whoever_runs_beside(seeds, vocabulary, position, chosen, dropped):
    weights = random_weights(len(seeds), vocabulary, chosen)
    draws = torch.rand(weights.shape, generator=torch.Generator().manual_seed(chosen))
    weights = weights.masked_fill(draws < dropped, 0.0)
    weights[:, chosen % vocabulary] = 1.0  # so that there is one in every row
    expected = [winner(seed, position, row) for seed, row in zip(seeds, weights.tolist(), strict=True)]
    some = max(1, int((weights > 0).sum(dim=1).max()))
    ids = weights.topk(some, dim=1).indices.sort(dim=1).values
    of_seeds = keys(*(hash64(seed, position) for seed in seeds))
    assert first_of_all(of_seeds, weights).tolist() == expected
    assert first_of_some(of_seeds, ids, weights.gather(1, ids), vocabulary).tolist() == expected


def test_every_token_wins_as_often_as_its_weight_says():
    weights = random_weights(1, 200, seed=1, spread=1.0)
    draws = 50_000
    winners = first_of_all(keys(*(hash64(5, place) for place in range(draws))), weights.expand(draws, -1))
    expected = draws * weights[0] / weights.sum()
    counts = winners.bincount(minlength=200)
    # Pearson's statistic has a mean of 199 and a standard deviation of 20.
    assert ((counts - expected) ** 2 / expected).sum() < 280


def test_a_draw_tells_nothing_of_the_next():
    weights = torch.ones(1, 2, dtype=torch.float64)
    draws = first_of_all(keys(*(hash64(7, place) for place in range(20_000))), weights.expand(20_000, -1))
    pairs = (2 * draws[:-1] + draws[1:]).bincount(minlength=4)
    assert (pairs - 5000).abs().max() < 250


def test_rounding_turns_hardly_a_draw_from_a_whole_vocabulary():
    draws, vocabulary = 300, 50_000
    weights = random_weights(1, vocabulary, seed=2, spread=2.0).repeat(draws, 1)
    of_places = keys(*(hash64(1, place) for place in range(draws)))
    rounded = weights.clone()
    rounded[:, : vocabulary // 2] *= 1 + 1e-5
    assert torch.equal(first_of_all(of_places, weights), first_of_all(of_places, rounded))
    points = torch.rand(draws, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    shares = [some.cumsum(dim=1) / some.sum(dim=1, keepdim=True) for some in (weights, rounded)]
    before, after = (torch.searchsorted(share, points) for share in shares)
    assert (before != after).sum() > 10, "along a cumulative sum it turns many: the rounding is worth the test"


@pytest.mark.parametrize("poison", [torch.nan, 0.0])
def test_a_row_without_a_sound_weight_spoils_no_other(poison):
    weights = torch.tensor([[0.0, 1.0, 0.0], [poison] * 3, [0.0, 0.0, 1.0]], dtype=torch.float64)
    winners = first_of_all(keys(1, 2, 3), weights)
    assert (winners[0], winners[2]) == (1, 2)
    assert 0 <= winners[1] < 3
