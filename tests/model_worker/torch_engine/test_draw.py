"""The draw: the race of (seed, position) among what the filters left, each row for itself."""

from array import array
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from model_worker.engine import Draw, OutOfMemory
from model_worker.sequence import RowParams, SamplingParams, Sequence
from model_worker.torch_engine import draw, sampling
from model_worker.torch_engine.draw import NOT_NUMBERS, draw_tokens, sample
from model_worker.torch_engine.isolation import SAMPLING_FAILED
from rpc.seeds import hash64
from tests.model_worker.torch_engine.test_race import winner
from tests.model_worker.torch_engine.test_sampling import generated, law_of_transformers


def row(ids: int = 3, sampling: SamplingParams | None = None, **params) -> Sequence:
    return Sequence(
        RowParams(sampling or SamplingParams(), **params),
        array("i", [0] * ids),
        prompt_tokens=ids,
        banned_ids=frozenset({0}),
    )


class Operations(TorchDispatchMode):
    """The names of what is computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_race_is_that_of_the_seed_and_the_position_of_the_token_drawn():
    [drawn] = draw_tokens(torch.zeros(1, 1000), [row(ids=12, sampling=SamplingParams(1.0, seed=99))])
    assert drawn == Draw(winner(99, 12, [1.0] * 1000))


def test_the_frequencies_of_many_positions_follow_the_law():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    draws, _ = sample(logits.expand(20_000, 4), [SamplingParams(1.0, seed=5)] * 20_000, range(20_000), 0)
    torch.testing.assert_close(draws.bincount() / 20_000, logits.exp().float(), rtol=0, atol=0.01)


sampling_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 90]),
    top_p=st.sampled_from([1.0, 0.3, 0.9, 0.99]),
    min_p=st.sampled_from([0.0, 0.0, 0.05]),
    typical_p=st.sampled_from([1.0, 1.0, 0.8]),
    seed=st.integers(0, 2**64 - 1),
)


@pytest.mark.parametrize("widths", [(4, 16), (64, 512)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(params=st.lists(sampling_params, min_size=1, max_size=8), seed=st.integers(0, 999))
def test_a_token_does_not_depend_on_neighbours_nor_on_how_wide_one_looked(monkeypatch, widths, params, seed):
    monkeypatch.setattr(sampling, "_WIDTHS", widths)
    logits = generated(len(params), 300, seed)
    rows = [row(ids=3 + index, sampling=one) for index, one in enumerate(params)]
    expected = []
    for one, sequence, line in zip(params, rows, logits, strict=True):
        expected.append(Draw(winner(one.seed, len(sequence.ids), law_of_transformers(line, one).tolist())))
    assert draw_tokens(logits, rows) == expected
    assert [draw_tokens(logits[i : i + 1], [one])[0] for i, one in enumerate(rows)] == expected


def test_what_is_drawn_comes_from_the_device_in_one_transfer(monkeypatch):
    transfers = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.shape) or tolist(tensor))
    wishes = [
        SamplingParams(),
        SamplingParams(1.0),
        SamplingParams(0.5, top_k=100, logit_bias=((3, 1.0),)),
        SamplingParams(0.5, top_p=0.9, min_p=0.01, repetition_penalty=1.1),
        SamplingParams(0.5, typical_p=0.7, presence_penalty=0.5),
    ]
    rows = [row(sampling=wish, logprobs=place, min_new_tokens=1) for place, wish in enumerate(wishes)]
    logits = generated(5, 2000, 1) * 3
    with Operations() as operations:
        assert all(isinstance(drawn, Draw) for drawn in draw_tokens(logits, rows))
    assert len(transfers) == 1
    assert not operations.names & {"_local_scalar_dense", "nonzero", "masked_select"}, "these wait for the device"


def test_greedy_rows_take_the_first_of_the_best_beside_sampling_rows():
    logits = torch.tensor([[0.0, 2.0, 2.0], [0.0, -50.0, 0.0]])
    first, second = draw_tokens(logits, [row(), row(sampling=SamplingParams(1.0, top_k=1, seed=1))])
    assert first == Draw(1)
    assert second in {Draw(0), Draw(2)}


def test_penalties_hold_for_greedy_rows_and_filters_do_not():
    logits = torch.tensor([[2.0, 1.5, 1.0]] * 2)
    penalised = row(sampling=SamplingParams(0.0, repetition_penalty=3.0))
    assert draw_tokens(logits, [penalised, row(sampling=SamplingParams(0.0, typical_p=0.1))]) == [Draw(1), Draw(0)]


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(1.0), SamplingParams(1.0, top_k=2, top_p=0.5)])
@pytest.mark.parametrize("poison", [[torch.nan, 0, 0], [torch.inf, 0, 0], [-torch.inf] * 3])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_row_without_sound_logits_fails_alone(sampling, poison, logprobs):
    logits = torch.tensor([[0.0, 9.0, 0.0], poison, [0.0, 0.0, 9.0]])
    poisoned = row(sampling=sampling, logprobs=logprobs, min_new_tokens=1)
    assert draw_tokens(logits, [row(), poisoned, row()]) == [Draw(1), NOT_NUMBERS, Draw(2)]


def test_a_row_in_which_everything_is_banned_fails_alone():
    banned = row(sampling=SamplingParams(1.0, logit_bias=((1, -torch.inf), (2, -torch.inf))), min_new_tokens=1)
    assert draw_tokens(torch.zeros(2, 3), [banned, row()]) == [NOT_NUMBERS, Draw(0)]


def test_a_masked_token_is_no_failure():
    assert draw_tokens(torch.tensor([[-torch.inf, 1.0, 0.0]]), [row()]) == [Draw(1)]


def test_log_probabilities_are_those_of_the_model_whatever_was_made_of_its_logits():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3, dtype=torch.float64)
    wishes = SamplingParams(0.0, repetition_penalty=9.0, logit_bias=((2, 50.0),))
    sampled = SamplingParams(0.01, top_k=1)
    biased, silent, sure = draw_tokens(
        logits, [row(sampling=wishes, logprobs=2, min_new_tokens=5), row(), row(sampling=sampled, logprobs=0)]
    )
    expected = torch.log_softmax(logits[0], dim=-1)
    assert biased.token_id == 2
    assert biased.logprob.logprob == pytest.approx(expected[2].item())
    assert biased.logprob.rank == 3
    assert [other.token_id for other in biased.logprob.alternatives] == [0, 1]
    assert silent == Draw(0)
    assert (sure.token_id, sure.logprob.rank, sure.logprob.alternatives) == (0, 1, ())
    assert sure.logprob.logprob == pytest.approx(expected[0].item())


def test_log_probabilities_of_a_row_that_was_drawn_twice_are_those_of_its_token(monkeypatch):
    monkeypatch.setattr(sampling, "_WIDTHS", (4, 8))
    logits = generated(3, 100, 1).double() * 0.1
    wide = SamplingParams(1.0, top_p=0.99, seed=3)
    narrow, found, greedy = draw_tokens(
        logits,
        [row(sampling=replace(wide, top_p=0.001), logprobs=1), row(sampling=wide, logprobs=3), row(logprobs=20)],
    )
    expected = torch.log_softmax(logits, dim=-1)
    for index, drawn in enumerate([narrow, found, greedy]):
        assert drawn.logprob.token_id == drawn.token_id
        assert drawn.logprob.logprob == pytest.approx(expected[index, drawn.token_id].item())
    assert [len(drawn.logprob.alternatives) for drawn in (narrow, found, greedy)] == [1, 3, 20]


def test_a_row_whose_parameters_raise_fails_alone_and_the_others_draw_what_they_would_have_drawn(monkeypatch, caplog):
    logits = generated(4, 50, 3)
    rows = [
        row(sampling=SamplingParams(1.0, repetition_penalty=1.3, seed=seed), logprobs=seed % 2) for seed in range(4)
    ]
    expected = draw_tokens(logits, rows)

    def broken(seed: int, position: int) -> int:
        if seed == 2:
            raise ZeroDivisionError
        return hash64(seed, position)

    monkeypatch.setattr(draw, "hash64", broken)
    assert draw_tokens(logits, rows) == [*expected[:2], SAMPLING_FAILED, expected[3]]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("not enough memory: you tried to allocate 9 bytes.")])
def test_want_of_memory_concerns_the_step_not_a_row(monkeypatch, error):
    def starved(*_args):
        raise error

    monkeypatch.setattr(draw, "hash64", starved)
    with pytest.raises(OutOfMemory):
        draw_tokens(torch.zeros(2, 5), [row(), row(sampling=SamplingParams(1.0))])
