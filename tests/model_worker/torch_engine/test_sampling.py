"""The filtered law against transformers' own warpers, row by row."""

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from model_worker.sequence import SamplingParams
from model_worker.torch_engine import sampling
from model_worker.torch_engine.sampling import sampling_weights


def law(logits: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    weights = sampling_weights(logits, params)
    return weights / weights.sum(dim=-1, keepdim=True)


def law_of_transformers(row: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    scores = TemperatureLogitsWarper(params.temperature)(None, row.double().unsqueeze(0))
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(None, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(None, scores)
    return torch.softmax(scores, dim=-1)[0]


row_params = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 3.0),
    top_k=st.one_of(st.just(0), st.integers(1, 60)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
)


@settings(max_examples=60, deadline=None)
@given(params=st.lists(row_params, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_every_row_of_a_mixed_batch_has_the_law_of_transformers(params, seed):
    logits = torch.randn(len(params), 50, generator=torch.Generator().manual_seed(seed)) * 3
    for processed, row, row_params in zip(law(logits, params), logits, params, strict=True):
        torch.testing.assert_close(processed, law_of_transformers(row, row_params), rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.integers(65, 2000),
    spread=st.floats(0.01, 3.0),
    params=st.lists(
        st.builds(SamplingParams, temperature=st.floats(0.5, 100.0), top_p=st.floats(0.05, 0.999)),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 1000),
)
def test_a_nucleus_of_hundreds_of_tokens_is_that_of_transformers(vocabulary, spread, params, seed):
    logits = torch.randn(len(params), vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    for row, one in zip(logits, params, strict=True):
        assume(row.unique().numel() == vocabulary)  # equals have a test of their own
        # Where rounding decides who is in, nothing is said.
        weights = torch.softmax(row.double() / one.temperature, dim=-1)
        sums = weights.sort(descending=True).values.cumsum(dim=-1)
        assume((sums - one.top_p).abs().min() > 1e-12)
    for processed, row, one in zip(law(logits, params), logits, params, strict=True):
        torch.testing.assert_close(processed, law_of_transformers(row, one), rtol=1e-9, atol=1e-12)


def test_tokens_equal_to_the_kth_best_stay():
    processed = law(torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]), [SamplingParams(1.0, top_k=2)])
    assert (processed > 0).tolist() == [[True, True, True, True, False]]


def test_among_equals_at_the_edge_of_the_nucleus_the_higher_ids_stay():
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    params = SamplingParams(1.0, top_p=0.5)
    assert (law(logits, [params]) > 0).tolist() == [[False, False, True, True]]
    torch.testing.assert_close(law(logits, [params])[0], law_of_transformers(logits[0], params))


def test_the_best_token_stays_however_small_top_p_is():
    assert law(torch.tensor([[0.0, 0.1, 0.0]]), [SamplingParams(1.0, top_p=1e-9)]).tolist() == [[0.0, 1.0, 0.0]]


def test_a_nucleus_wider_than_the_first_guess_is_still_found(monkeypatch):
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    params = [SamplingParams(1.0, top_p=0.2), SamplingParams(1.5, top_p=0.97), SamplingParams(1.0, top_p=0.6)]
    at_once = law(logits, params)
    monkeypatch.setattr(sampling, "_NUCLEUS_GUESS", 2)
    assert torch.equal(law(logits, params), at_once)


@pytest.mark.parametrize("temperature", [1e-300, 1e-38])
def test_a_tiny_temperature_is_greedy_and_not_a_number_error(temperature):
    assert law(torch.tensor([[3e38, -1.0, 2.0]]), [SamplingParams(temperature)]).tolist() == [[1.0, 0.0, 0.0]]


def test_the_callers_logits_are_left_alone():
    logits = torch.randn(2, 10, dtype=torch.float64)
    before = logits.clone()
    sampling_weights(logits, [SamplingParams(0.5, top_k=2, top_p=0.5)] * 2)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("guess", [1, 2, 3, 4, 64])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(levels=st.lists(st.integers(0, 3), min_size=2, max_size=12), top_p=st.floats(0.05, 0.99))
def test_with_many_equal_logits_the_nucleus_is_that_of_a_stable_sort(monkeypatch, guess, levels, top_p):
    monkeypatch.setattr(sampling, "_NUCLEUS_GUESS", guess)
    logits = torch.tensor([levels], dtype=torch.float64)
    kept = law(logits, [SamplingParams(1.0, top_p=top_p)])[0] > 0
    best_first = sorted(range(len(levels)), key=lambda token: (-levels[token], -token))
    total = sum(math.exp(level) for level in levels)
    reached, expected = 0.0, []
    for token in best_first:
        if expected and abs(reached / total - top_p) < 1e-12:
            return  # on the edge itself rounding decides
        if expected and reached / total >= top_p:
            break
        expected.append(token)
        reached += math.exp(levels[token])
    assert kept.nonzero().flatten().tolist() == sorted(expected)
