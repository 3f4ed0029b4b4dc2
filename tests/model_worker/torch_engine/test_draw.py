"""The draw: inverse CDF at the point that (seed, position) gives, each row for itself."""

from array import array

import pytest
import torch

from model_worker.engine import Draw
from model_worker.sequence import RowParams, SamplingParams, Sequence
from model_worker.torch_engine import draw
from model_worker.torch_engine.draw import NOT_NUMBERS, draw_tokens, sample
from rpc.seeds import uniform


def row(ids: int = 3, sampling: SamplingParams | None = None) -> Sequence:
    return Sequence(RowParams(sampling or SamplingParams()), array("i", [0] * ids), prompt_tokens=ids)


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 1), (0.2499, 1), (0.25, 2), (0.7499, 2), (0.75, 4), (1 - 2**-53, 4)],
)
def test_the_token_is_the_first_whose_cumulative_probability_exceeds_the_number(monkeypatch, number, token):
    monkeypatch.setattr(draw, "uniform", lambda seed, position: number)
    logits = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25]], dtype=torch.float64).log()
    assert sample(logits, [SamplingParams(1.0)], [0]).item() == token


def test_a_number_comes_from_the_seed_and_the_position_of_the_token_drawn():
    logits = torch.zeros(1, 1000)
    [drawn] = draw_tokens(logits, [row(ids=12, sampling=SamplingParams(1.0, seed=99))])
    assert drawn == Draw(int(uniform(99, 12) * 1000))


def test_the_frequencies_of_many_positions_follow_the_law():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    draws = sample(probabilities.log().expand(20_000, 4), [SamplingParams(1.0, seed=5)] * 20_000, range(20_000))
    torch.testing.assert_close(draws.bincount() / 20_000, probabilities.float(), rtol=0, atol=0.01)


def test_greedy_rows_take_the_first_of_the_best_beside_sampling_rows():
    logits = torch.tensor([[0.0, 2.0, 2.0], [0.0, -50.0, 0.0]])
    first, second = draw_tokens(logits, [row(), row(sampling=SamplingParams(1.0, top_k=1, seed=1))])
    assert first == Draw(1)
    assert second in {Draw(0), Draw(2)}


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(1.0, top_k=2, top_p=0.5)])
@pytest.mark.parametrize("poison", [[torch.nan, 0, 0], [torch.inf, 0, 0], [-torch.inf] * 3])
def test_a_row_without_sound_logits_fails_alone(sampling, poison):
    logits = torch.tensor([[0.0, 9.0, 0.0], poison, [0.0, 0.0, 9.0]])
    outcomes = draw_tokens(logits, [row(), row(sampling=sampling), row()])
    assert outcomes == [Draw(1), NOT_NUMBERS, Draw(2)]


def test_a_masked_token_is_no_failure():
    assert draw_tokens(torch.tensor([[-torch.inf, 1.0, 0.0]]), [row()]) == [Draw(1)]
