from __future__ import annotations

import dataclasses
from array import array
from typing import Any

import pytest

from gateway.generation import EncodedPrompts, Generation, Sampling, Stopping
from gateway.models import ServedModel
from gateway.row_plan import LEAST_TIME_LIMIT_SECONDS, RowPlan, plan_rows
from rpc.errors import ServiceError
from rpc.seeds import mix64

MODEL = ServedModel(
    name="tiny",
    base="tiny",
    context_length=20,
    vocabulary_size=100,
    vocabulary_fingerprint="f",
    eos_token_ids=(),
    quantization="none",
    effective_sampling=lambda sampling: sampling,
    default_max_new_tokens=8,
)


def plan(*prompts: int, special_stops: dict[str, int] | None = None, elapsed: float = 0.0, **given: Any) -> RowPlan:
    """For prompts of these lengths."""
    rows = [array("i", range(length)) for length in prompts]
    generation = Generation(model="tiny", prompt=None, prompt_count=len(rows), **given)
    return plan_rows(generation, EncodedPrompts(rows, "f"), MODEL, special_stops or {}, elapsed)


def refused(*prompts: int, **given: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        plan(*prompts, **given)
    return caught.value


def test_rows_stand_in_the_order_of_their_output_and_samples_differ_in_their_seed_alone() -> None:
    made = plan(3, 5, n=2, sampling=Sampling(temperature=1.0, seed=42))
    assert [(len(row.ids), row.sampling.seed) for row in made.rows] == [
        (3, 42),
        (3, mix64(42, 1)),
        (5, 42),
        (5, mix64(42, 1)),
    ]
    assert {row.sampling.temperature for row in made.rows} == {1.0}
    assert (made.sampling.seed, made.prompt_tokens) == (42, (3, 5))


def test_a_seed_is_drawn_where_none_is_given_and_told() -> None:
    made = plan(3, n=2)
    assert made.sampling.seed is not None
    assert 0 <= made.sampling.seed < 2**64
    assert [row.sampling.seed for row in made.rows] == [made.sampling.seed, mix64(made.sampling.seed, 1)]
    assert plan(3).sampling.seed != made.sampling.seed


@pytest.mark.parametrize(("wanted", "told", "sent"), [(None, (8, 2), 8), (5, (5, 2), 5), (50, (17, 2), 50)])
def test_what_is_told_fits_the_context_and_the_worker_is_asked_for_what_was_wanted(
    wanted: int | None, told: tuple[int, ...], sent: int
) -> None:
    made = plan(3, 18, stopping=Stopping(max_new_tokens=wanted))
    assert made.max_new_tokens == told
    assert {row.max_new_tokens for row in made.rows} == {sent}


def test_stop_strings_that_are_special_tokens_become_stop_ids() -> None:
    made = plan(3, special_stops={"</s>": 99}, stopping=Stopping(stop_token_ids=(7,), stop_strings=("</s>",)))
    assert made.rows[0].stop_token_ids == {7, 99}
    assert made.special_stops == {99: "</s>"}


@pytest.mark.parametrize(
    ("limit", "elapsed", "left"), [(None, 9, None), (10, 4, 6), (10, 12, LEAST_TIME_LIMIT_SECONDS)]
)
def test_the_worker_gets_what_is_left_of_the_time(limit: float | None, elapsed: float, left: float | None) -> None:
    made = plan(3, elapsed=elapsed, stopping=Stopping(time_limit_seconds=limit))
    assert made.rows[0].time_limit_seconds == left


def test_a_prompt_is_scored_with_its_first_sample_and_every_sample_scores_its_own_tokens() -> None:
    made = plan(3, 5, n=2, logprobs=4, prompt_logprobs=4)
    assert [row.prompt_logprobs for row in made.rows] == [4, None, 4, None]
    assert {row.logprobs for row in made.rows} == {4}


def test_log_probabilities_are_counted_before_anything_is_sent() -> None:
    vast = dataclasses.replace(MODEL, context_length=200_000)
    prompts = EncodedPrompts([array("i", [1]) * 6242], "f")
    generation = Generation(model="tiny", prompt=None, prompt_logprobs=20, stopping=Stopping(max_new_tokens=50_000))
    assert plan_rows(generation, prompts, vast, {}, 0.0).rows, "6241 x 21 is just below 2^17"
    for given, field in (({"logprobs": 20}, "output.logprobs"), ({"prompt_count": 2}, "output.prompt_logprobs")):
        many = EncodedPrompts([*prompts.rows] * given.get("prompt_count", 1), "f")
        with pytest.raises(ServiceError) as caught:
            plan_rows(dataclasses.replace(generation, **given), many, vast, {}, 0.0)
        assert (caught.value.field, caught.value.reason) == (field, "TOO_MANY_LOGPROBS")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompts": (3,), "sampling": Sampling(logit_bias=((3, 1.0), (100, 1.0)))}, "sampling.logit_bias"),
        ({"prompts": (3, 20)}, "prompts.texts[1]"),
        ({"prompts": (3, 20), "prompt_path": "messages"}, "messages"),
        ({"prompts": (3, 18), "stopping": Stopping(min_new_tokens=3)}, "stopping.min_new_tokens"),
        ({"prompts": (3,), "stopping": Stopping(stop_token_ids=(100,))}, "stopping.stop_token_ids"),
        ({"prompts": (3,), "stopping": Stopping(stop_token_ids=tuple(range(64)))}, "stopping.stop_token_ids"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_name(given: dict[str, Any], field: str) -> None:
    prompts = given.pop("prompts")
    error = refused(*prompts, special_stops={"</s>": 99}, **given)
    assert error.field == field
    assert error.message.startswith(f"{field}: ")


def test_rows_that_no_message_could_carry_are_refused_before_they_are_packed() -> None:
    large = dataclasses.replace(MODEL, context_length=10**6)
    prompts = EncodedPrompts([array("i", [1]) * 100_000, array("i", [1])], "f")
    generation = Generation(model="tiny", prompt=None, prompt_count=2, n=32)
    with pytest.raises(ServiceError, match="64 outputs after prompts of up to 100000 tokens") as caught:
        plan_rows(generation, prompts, large, {}, 0.0)
    assert (caught.value.field, caught.value.reason) == ("n", "CAPACITY_EXCEEDED")
