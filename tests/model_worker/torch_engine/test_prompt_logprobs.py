"""The log-probabilities of a prompt against one plain forward of the model over all of it."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_worker.engine import Draw, RowFailure, Scored, Segment, TokenLogprob
from model_worker.sequence import Extent, SamplingParams, Sequence
from model_worker.torch_engine import answers, forward_passes
from model_worker.torch_engine.isolation import SAMPLING_FAILED
from tests.model_worker.tiny_models import engine_for, prompt_of, reference, sequence_of, tiny_model


def plain(model, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of what follows each of `ids`."""
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)


def check(found: tuple[TokenLogprob, ...], expected: torch.Tensor, prompt: list[int], alternatives: int) -> None:
    assert [one.token_id for one in found] == prompt[1:]
    for one, row in zip(found, expected, strict=False):  # float32 inside Gemma rounds by some 1e-8
        assert one.logprob == pytest.approx(row[one.token_id].item(), abs=1e-6)
        assert one.rank == 1 + int((row > row[one.token_id]).sum())
        assert [other.token_id for other in one.alternatives] == row.topk(alternatives).indices.tolist()


def outcomes_in_chunks(engine, sequence: Sequence, chunk: int, *others: Segment) -> list[Draw | Scored]:
    """Compute all of `sequence`, `others` beside it in every step."""
    outcomes = []
    for start in range(0, len(sequence.ids), chunk):
        length = min(chunk, len(sequence.ids) - start)
        segment = Segment(sequence, start, length, draws=start + length == len(sequence.ids))
        outcomes.append(engine.step([*others, segment])[-1])
    return outcomes


# Soft-capped logits, scaled ones, plain ones: what stands between the head and the logits counts.
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama"])
def test_a_prompt_scored_in_any_chunks_and_passes_is_that_of_a_full_forward(monkeypatch, family):
    model = tiny_model(family)
    prompt = prompt_of(50, 1)
    expected = plain(model, prompt)

    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(chunk=st.integers(1, 50), most=st.sampled_from([1, 3, 16, 64]), alternatives=st.integers(0, 4))
    def holds(chunk, most, alternatives):
        monkeypatch.setattr(forward_passes, "MAX_SCORED_TOKENS", most)
        row = sequence_of(prompt, Extent(0, 64), prompt_logprobs=alternatives)
        outcomes = outcomes_in_chunks(engine, row, chunk)
        found = tuple(one for outcome in outcomes for one in outcome.prompt_logprobs)
        check(found, expected, prompt, alternatives)
        assert [len(outcome.prompt_logprobs) for outcome in outcomes[:-1]] == [chunk] * (len(outcomes) - 1)
        assert all(isinstance(outcome, Scored) for outcome in outcomes[:-1])
        assert outcomes[-1].token_id == int(expected[-1].argmax())

    with engine_for(model) as engine:
        holds()


def test_neighbours_draw_what_they_would_have_drawn(monkeypatch):
    monkeypatch.setattr(forward_passes, "MAX_SCORED_TOKENS", 4)
    model = tiny_model("llama")
    prompts = [prompt_of(20, 1), prompt_of(7, 2), prompt_of(11, 3)]
    with engine_for(model) as engine:
        wishes = [{"prompt_logprobs": 2}, {"logprobs": 3}, {"prompt_logprobs": 0, "logprobs": 0}]
        rows = [
            sequence_of(prompt, Extent(64 * place, 64), **wish)
            for place, (prompt, wish) in enumerate(zip(prompts, wishes, strict=True))
        ]
        outcomes = engine.step([Segment(row, 0, len(row.ids), draws=True) for row in rows])
    for outcome, prompt, wish in zip(outcomes, prompts, wishes, strict=True):
        expected = plain(model, prompt)
        assert [outcome.token_id] == reference(model, prompt, 1)
        if "prompt_logprobs" in wish:
            check(outcome.prompt_logprobs, expected, prompt, wish["prompt_logprobs"])
        else:
            assert outcome.prompt_logprobs == ()
        if "logprobs" in wish:
            assert outcome.logprob.logprob == pytest.approx(expected[-1, outcome.token_id].item(), abs=1e-6)
            assert len(outcome.logprob.alternatives) == wish["logprobs"]
        else:
            assert outcome.logprob is None


def test_what_an_earlier_attempt_generated_is_no_prompt():
    model = tiny_model("llama")
    prompt = prompt_of(10, 1)
    with engine_for(model) as engine:
        row = sequence_of([*prompt, 5, 6, 7], Extent(0, 32), generated_prefix=3, prompt_logprobs=0)
        row.prompt_tokens = 10
        first, second, last = outcomes_in_chunks(engine, row, 6)
        assert (len(first.prompt_logprobs), len(second.prompt_logprobs)) == (6, 3)
        assert isinstance(last, Draw)
        assert last.prompt_logprobs == ()
        assert engine.step([Segment(row, 10, 1, draws=False)]) == [Scored(())]


def test_the_head_never_makes_more_logits_at_once_than_a_pass_may_score(monkeypatch):
    model = tiny_model("llama")
    row = sequence_of(prompt_of(120, 1), Extent(0, 128), prompt_logprobs=1)
    rows_of_logits = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: rows_of_logits.append(logits.shape[-2]))
    with engine_for(model) as engine:
        [outcome] = engine.step([Segment(row, 0, 120, draws=True)])
    assert len(outcome.prompt_logprobs) == 119
    assert max(rows_of_logits) <= forward_passes.MAX_SCORED_TOKENS + 1


def test_a_prompt_whose_logits_are_not_numbers_fails_alone_even_in_a_step_that_does_not_draw():
    model = tiny_model("llama")
    poison = 50
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = torch.nan
    healthy = [3, 4, 5, 6]
    with engine_for(model) as engine:
        poisoned = sequence_of([3, poison, 4, 5], Extent(0, 32), prompt_logprobs=1)
        other = sequence_of(healthy, Extent(32, 32), prompt_logprobs=1)
        failure, scored = engine.step([Segment(poisoned, 0, 3, draws=False), Segment(other, 0, 3, draws=False)])
    assert isinstance(failure, RowFailure)
    assert failure.reason == "LOGITS_NOT_FINITE"
    assert [one.token_id for one in scored.prompt_logprobs] == healthy[1:]


def test_a_prompt_that_raises_while_it_is_scored_fails_alone(monkeypatch):
    read = answers.read

    def broken(numbers, token_id, alternatives):
        if token_id == 42:
            raise ZeroDivisionError
        return read(numbers, token_id, alternatives)

    monkeypatch.setattr(answers, "read", broken)
    with engine_for(tiny_model("llama")) as engine:
        rows = [
            sequence_of([3, middle, 5], Extent(32 * place, 32), SamplingParams(1.0), prompt_logprobs=0)
            for place, middle in enumerate([41, 42, 43])
        ]
        first, second, third = engine.step([Segment(row, 0, 3, draws=True) for row in rows])
    assert second == SAMPLING_FAILED
    assert [len(outcome.prompt_logprobs) for outcome in (first, third)] == [2, 2]
