"""The best of each row, through blocks, against torch's own search of whole rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_worker.torch_engine.best import best, peak

# Vocabularies that divide into blocks, into short ones, and not at all.
VOCABULARIES = st.sampled_from([1, 7, 64, 97, 128, 29 * 31, 1024, 1536])


@settings(max_examples=40, deadline=None)
@given(vocabulary=VOCABULARIES, count=st.integers(1, 80), levels=st.integers(1, 1000), seed=st.integers(0, 999))
def test_values_and_ids_are_those_of_torch_whatever_the_length_of_the_blocks(vocabulary, count, levels, seed):
    logits = torch.randint(levels, (3, vocabulary), generator=torch.Generator().manual_seed(seed)).float()
    values, ids = best(logits, min(count, vocabulary))
    assert torch.equal(values, logits.topk(min(count, vocabulary)).values)
    assert torch.equal(logits.gather(1, ids), values)
    assert all(len(set(row)) == len(row) for row in ids.tolist())
    assert torch.equal(torch.stack(peak(logits)), torch.stack([*map(torch.Tensor.float, logits.max(dim=-1))]))


@pytest.mark.parametrize("vocabulary", [97, 1024])
def test_a_number_that_is_none_is_the_largest(vocabulary):
    logits = torch.zeros(2, vocabulary)
    logits[1, 55] = torch.nan
    values, ids = peak(logits)
    assert values.isnan().tolist() == [False, True]
    assert ids.tolist() == [0, 55]
    assert best(logits, 4)[0].isnan().sum(dim=-1).tolist() == [0, 1]
