"""Log-probabilities and ranks, as the contract defines them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_worker.engine import TokenLogprob
from model_worker.torch_engine.logprobs import read, score


def scored(logits: torch.Tensor, tokens: list[int], alternatives: int) -> list[TokenLogprob]:
    lines = score(logits, torch.tensor(tokens), alternatives).tolist()
    return [read(line, token, alternatives) for line, token in zip(lines, tokens, strict=True)]


@settings(max_examples=40, deadline=None)
@given(vocabulary=st.sampled_from([5, 97, 1024]), alternatives=st.integers(0, 20), seed=st.integers(0, 999))
def test_they_are_the_log_softmax_and_the_place_in_the_order_of_it(vocabulary, alternatives, seed):
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(seed)).double() * 5
    tokens = [seed % vocabulary, 0, vocabulary - 1]
    expected = torch.log_softmax(logits, dim=-1)
    best_first = expected.argsort(descending=True)
    for found, token, row, order in zip(
        scored(logits, tokens, alternatives), tokens, expected, best_first, strict=True
    ):
        assert found.token_id == token
        assert found.logprob == pytest.approx(row[token].item(), abs=1e-12)
        assert order[found.rank - 1] == token
        assert [other.token_id for other in found.alternatives] == order[:alternatives].tolist()
        assert [other.rank for other in found.alternatives] == list(range(1, min(alternatives, vocabulary) + 1))
        assert [o.logprob for o in found.alternatives] == pytest.approx(row[order[:alternatives]].tolist(), abs=1e-12)
        assert all(not other.alternatives for other in found.alternatives)


def test_equals_share_the_better_rank():
    [last] = scored(torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]), [4], 6)
    assert last.rank == 2
    assert [other.rank for other in last.alternatives] == [1, 2, 2, 2, 5, 6]
    assert last.alternatives[0].token_id == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_few_digits_of_the_logits_do_not_cost_digits_of_the_result(dtype):
    logits = (torch.arange(1000) % 7).to(dtype).unsqueeze(0)
    [found] = scored(logits, [6], 1)
    assert found.logprob == pytest.approx(torch.log_softmax(logits.double(), dim=-1)[0, 6].item(), abs=1e-6)
    assert found.rank == 1


def test_a_token_that_cannot_be_has_no_probability_and_a_rank_all_the_same():
    [found] = scored(torch.tensor([[0.0, -torch.inf, 0.0]]), [1], 0)
    assert found == TokenLogprob(1, -torch.inf, 3)


@pytest.mark.parametrize("poison", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
def test_logits_that_are_not_numbers_have_no_log_probability(poison):
    assert score(torch.tensor([poison]), torch.tensor([1]), 1)[0, 0].isnan()
