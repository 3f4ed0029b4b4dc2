"""Bias, penalties and bans: by hand, and against transformers' own processors row by row."""

from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from model_worker.sequence import RowParams, SamplingParams, Sequence
from model_worker.torch_engine.adjustments import adjust

VOCABULARY = 40


def row(prompt: list[int], generated: list[int], min_new_tokens: int = 0, **sampling) -> Sequence:
    params = RowParams(SamplingParams(**sampling), min_new_tokens=min_new_tokens)
    return Sequence(params, array("i", prompt + generated), len(prompt), banned_ids=frozenset({1, 2}))


def test_presence_counts_once_and_frequency_each_time_and_the_prompt_not_at_all():
    sequence = row([3, 3, 4], [5, 5, 5, 6], presence_penalty=0.5, frequency_penalty=0.25)
    [adjusted] = adjust(torch.zeros(1, 8), [sequence]).tolist()
    assert adjusted == [0, 0, 0, 0, 0, -1.25, -0.75, 0]


def test_tokens_of_an_earlier_attempt_count_as_generated():
    sequence = Sequence(
        RowParams(SamplingParams(presence_penalty=1.0), generated_prefix=2), array("i", [3, 4, 5]), prompt_tokens=1
    )
    assert adjust(torch.zeros(1, 8), [sequence]).tolist() == [[0, 0, 0, 0, -1, -1, 0, 0]]


def test_repetition_counts_the_prompt_too_and_each_token_once():
    sequence = row([0, 0], [1], repetition_penalty=2.0)
    assert adjust(torch.tensor([[4.0, -4.0, 4.0]]), [sequence]).tolist() == [[2.0, -8.0, 4.0]]


def test_what_may_not_end_a_row_is_out_of_reach_until_min_new_tokens():
    logits = torch.zeros(2, 4)
    adjusted = adjust(logits, [row([0], [3], min_new_tokens=2), row([0], [3], min_new_tokens=1)])
    assert adjusted.tolist() == [[0, -torch.inf, -torch.inf, 0], [0, 0, 0, 0]]


def test_bias_comes_before_the_penalty_of_repetition():
    sequence = row([0], [], repetition_penalty=2.0, logit_bias=((0, 3.0), (2, -1.0)))
    assert adjust(torch.tensor([[1.0, 0.0, 0.0]]), [sequence]).tolist() == [[2.0, 0.0, -1.0]]


def test_rows_without_wishes_get_their_logits_themselves():
    logits = torch.zeros(2, 8, dtype=torch.bfloat16)
    assert adjust(logits, [row([3], [4]), row([3], [], presence_penalty=1.0)]) is logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_callers_logits_stay_and_half_precision_is_not_penalised_in_half_precision(dtype):
    logits = torch.full((2, 8), 100.0, dtype=dtype)
    adjusted = adjust(logits, [row([3], [4], frequency_penalty=0.0625), row([3], [])])
    assert logits.unique().tolist() == [100.0]
    assert adjusted[0, 4] == 99.9375
    assert adjusted[1].unique().tolist() == [100.0]


def test_a_prompts_id_that_the_output_head_does_not_have_is_passed_over():
    assert adjust(torch.ones(1, 4), [row([9, 2], [], repetition_penalty=2.0)]).tolist() == [[1, 1, 0.5, 1]]


ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=12)
rows = st.builds(
    row,
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    generated=ids,
    min_new_tokens=st.integers(0, 8),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.1, 3.0)),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-9, 9, width=32), max_size=5).map(
        lambda bias: tuple(sorted(bias.items()))
    ),
)


def by_transformers(sequence: Sequence, logits: torch.Tensor) -> torch.Tensor:
    sampling, processors = sequence.params.sampling, LogitsProcessorList()
    if sampling.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], float(bias)] for token, bias in sampling.logit_bias]))
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sequence.params.min_new_tokens:
        banned = sorted(sequence.banned_ids)
        min_new_tokens = sequence.params.min_new_tokens
        processors.append(MinNewTokensLengthLogitsProcessor(sequence.prompt_tokens, min_new_tokens, banned))
    return processors(torch.tensor([list(sequence.ids)]), logits.unsqueeze(0))[0]


@settings(max_examples=40, deadline=None)
@given(sequences=st.lists(rows, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_every_row_of_a_mixed_batch_is_what_transformers_makes_of_it(sequences, seed):
    logits = torch.randn(len(sequences), VOCABULARY, generator=torch.Generator().manual_seed(seed)).double() * 4
    for adjusted, sequence, raw in zip(adjust(logits, sequences), sequences, logits, strict=True):
        torch.testing.assert_close(adjusted, by_transformers(sequence, raw), rtol=1e-12, atol=1e-12)
