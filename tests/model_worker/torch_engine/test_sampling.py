"""The filtered law against transformers' own warpers, row by row, in windows of any width."""

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from model_worker.sequence import SamplingParams
from model_worker.torch_engine import sampling
from model_worker.torch_engine.sampling import first_width, next_width, weigh_all, weigh_best


def law(logits: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """The probabilities of all tokens, in the first windows that settle their rows."""
    vocabulary = logits.shape[1]
    weights = torch.zeros(logits.shape, dtype=torch.float64)
    pending = {row: first_width(one, vocabulary) for row, one in enumerate(params)}
    while pending:
        for width in set(pending.values()):
            rows = [row for row in pending if pending[row] == width]
            chosen = [params[row] for row in rows]
            if width == 0:
                weights[rows] = weigh_all(logits[rows], chosen)
                settled = [True] * len(rows)
            else:
                window = weigh_best(logits[rows], chosen, width)
                weights[rows] = torch.zeros(len(rows), vocabulary).double().scatter(1, window.ids, window.weights)
                settled = window.settled.tolist()
            for row, is_settled in zip(rows, settled, strict=True):
                if is_settled:
                    del pending[row]
                else:
                    pending[row] = next_width(width, vocabulary)
    return weights / weights.sum(dim=-1, keepdim=True)


def warpers_of(params: SamplingParams) -> LogitsProcessorList:
    """In the order of `generate()`."""
    warpers = [TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        warpers.append(MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        warpers.append(TypicalLogitsWarper(params.typical_p))
    return LogitsProcessorList(warpers)


def law_of_transformers(row: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    return torch.softmax(warpers_of(params)(None, row.double().unsqueeze(0)), dim=-1)[0]


row_params = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 3.0),
    top_k=st.one_of(st.just(0), st.integers(1, 60)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
    typical_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
)


def generated(rows: int, vocabulary: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("widths", [(2, 8), (64, 512)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(params=st.lists(row_params, min_size=1, max_size=6), spread=st.floats(0.1, 6.0), seed=st.integers(0, 1000))
def test_every_row_of_a_mixed_batch_has_the_law_of_transformers(monkeypatch, widths, params, spread, seed):
    monkeypatch.setattr(sampling, "_WIDTHS", widths)
    logits = generated(len(params), 100, seed) * spread
    for processed, row, row_params in zip(law(logits, params), logits, params, strict=True):
        torch.testing.assert_close(processed, law_of_transformers(row, row_params), rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
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
    logits = generated(len(params), vocabulary, seed) * spread
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


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5])
def test_equals_of_the_kth_best_that_no_narrow_window_holds_stay_and_count(monkeypatch, top_p):
    monkeypatch.setattr(sampling, "_WIDTHS", (4, 8))
    logits = torch.tensor([[0.0, 2.0, *[1.0] * 20]])
    params = SamplingParams(1.0, top_k=3, top_p=top_p)
    processed = law(logits, [params])[0]
    # Which of the equals is up to the sort that transformers happens to use; for us it is the higher ids.
    torch.testing.assert_close(processed.sort().values, law_of_transformers(logits[0], params).sort().values)
    assert not processed[2 : 22 - int((processed[2:] > 0).sum())].any()


def test_among_equals_at_the_edge_of_the_nucleus_the_higher_ids_stay():
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    params = SamplingParams(1.0, top_p=0.5)
    assert (law(logits, [params]) > 0).tolist() == [[False, False, True, True]]
    torch.testing.assert_close(law(logits, [params])[0], law_of_transformers(logits[0], params))


@pytest.mark.parametrize("params", [SamplingParams(1.0, top_p=1e-9), SamplingParams(1.0, min_p=1.0)])
def test_the_best_token_stays_however_little_is_to_stay(params):
    assert law(torch.tensor([[0.0, 0.1, 0.0]]), [params]).tolist() == [[0.0, 1.0, 0.0]]


def test_typical_tokens_need_not_be_the_most_probable_ones():
    logits = torch.tensor([[0.4, *[0.6 / 8] * 8]]).log()
    params = SamplingParams(1.0, typical_p=0.5)
    assert law(logits, [params])[0, 0] == 0
    torch.testing.assert_close(law(logits, [params])[0], law_of_transformers(logits[0], params))


def test_min_p_is_relative_to_the_best_token():
    processed = law(torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), [SamplingParams(1.0, min_p=0.5)])
    torch.testing.assert_close(processed, torch.tensor([[0.625, 0.375, 0.0, 0.0]]).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-300, 1e-38])
@pytest.mark.parametrize("filters", [{}, {"top_k": 2}, {"top_p": 0.5}, {"typical_p": 0.5}])
def test_a_tiny_temperature_is_greedy_and_not_a_number_error(temperature, filters):
    processed = law(torch.tensor([[3e38, -1.0, 2.0]]), [SamplingParams(temperature, **filters)])
    assert processed.tolist() == [[1.0, 0.0, 0.0]]


def test_what_weighs_nothing_settles_a_window():
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, :3] = 0.0
    assert weigh_best(logits, [SamplingParams(1.0, top_k=10)], 64).settled.item()


def test_the_callers_logits_are_left_alone():
    logits = torch.randn(2, 1000, dtype=torch.float64)
    before = logits.clone()
    law(logits, [SamplingParams(0.5, top_k=2, top_p=0.5), SamplingParams(3.0, typical_p=0.9)])
    law(logits, [SamplingParams(0.5)] * 2)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("widths", [(1, 3), (2, 5), (64, 512)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(levels=st.lists(st.integers(0, 3), min_size=2, max_size=12), top_p=st.floats(0.05, 0.99))
def test_with_many_equal_logits_the_nucleus_is_that_of_a_stable_sort(monkeypatch, widths, levels, top_p):
    monkeypatch.setattr(sampling, "_WIDTHS", widths)
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
