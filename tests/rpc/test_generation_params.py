"""The ranges of the contract, and what is effective when something is not given."""

from __future__ import annotations

import math

import grpc
import pytest

from rpc.errors import ServiceError
from rpc.generation_params import (
    MAX_LOGPROBS,
    alternatives,
    check_logprob_count,
    check_output_options,
    check_salt,
    check_sampling,
    check_token_ids,
    check_token_limits,
    effective_sampling,
    logprob_count,
)
from rpc.transport import MAX_MESSAGE_BYTES
from tokenmill.v1.generation_pb2 import OutputOptions, SamplingParams, TokenLogprob
from tokenmill.v1.worker_pb2 import GenerationDefaults

STATUS = grpc.StatusCode
NAN, INF = math.nan, math.inf

REFUSED = (
    [("temperature", value) for value in (-0.1, -1e-30, 100.1, NAN, INF, -INF)]
    + [("top_p", value) for value in (0.0, -0.5, 1.001, NAN, INF)]
    + [("top_k", value) for value in (-1, -(2**31))]
    + [("min_p", value) for value in (-0.1, 1.001, NAN, INF)]
    + [("typical_p", value) for value in (0.0, -0.5, 1.001, NAN, INF)]
    + [("repetition_penalty", value) for value in (0.0, -1.0, 10.1, NAN, INF)]
    + [(name, value) for name in ("presence_penalty", "frequency_penalty") for value in (-2.1, 2.1, NAN, -INF, INF)]
    + [("logit_bias", {3: 1.0, 7: value}) for value in (-100.1, 100.1, NAN, -INF, INF)]
    + [("logit_bias", dict.fromkeys(range(1025), 1.0))]
)
ACCEPTED = [
    {}, {"temperature": 0.0}, {"temperature": -0.0}, {"temperature": 100.0}, {"temperature": 1e-30}, {"top_p": 1.0},
    {"top_p": 1e-30}, {"top_k": 0}, {"top_k": 2**31 - 1}, {"seed": 0}, {"seed": 2**64 - 1}, {"min_p": 0.0},
    {"min_p": 1.0}, {"typical_p": 1e-30}, {"typical_p": 1.0}, {"repetition_penalty": 1e-30},
    {"repetition_penalty": 10.0}, {"presence_penalty": -2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": -2.0},
    {"frequency_penalty": 2.0}, {"logit_bias": {0: -100.0, 2**32 - 1: 100.0}},
    {"logit_bias": dict.fromkeys(range(1024), 0.0)},
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ServiceError) as caught:
        check_sampling(SamplingParams(**{name: value}), "rows[3].sampling")
    assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, f"rows[3].sampling.{name}")


@pytest.mark.parametrize("given", ACCEPTED)
def test_the_ends_of_the_ranges_are_inside(given):
    check_sampling(SamplingParams(**given), "sampling")


def test_ids_outside_the_vocabulary_are_refused_by_the_field_that_has_them():
    check_token_ids([], 10, "ids")
    check_token_ids({9: 1.0}, 10, "ids")
    with pytest.raises(ServiceError, match=r"ids: 10 is outside the vocabulary \(0 to 9\)"):
        check_token_ids([3, 10], 10, "ids")


@pytest.mark.parametrize(
    "given",
    [
        {"logprobs": True, "top_logprobs": -1},
        {"logprobs": True, "top_logprobs": 21},
        {"top_logprobs": 1},  # of nothing
    ],
)
def test_a_number_of_alternatives_that_cannot_be_is_refused(given):
    with pytest.raises(ServiceError) as caught:
        check_output_options(OutputOptions(**given), "output")
    assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, "output.top_logprobs")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"token_ids": True, "keep_special_tokens": True}, (None, None)),
        ({"logprobs": True}, (0, None)),
        ({"prompt_logprobs": True, "top_logprobs": 20}, (None, 20)),
        ({"logprobs": True, "prompt_logprobs": True, "top_logprobs": 3}, (3, 3)),
    ],
)
def test_alternatives_come_with_what_has_log_probabilities(given, wanted):
    check_output_options(OutputOptions(**given), "output")
    assert alternatives(OutputOptions(**given)) == wanted


def test_as_many_log_probabilities_as_there_may_be_fit_into_a_message():
    most = TokenLogprob(token_id=2**32 - 1, logprob=-1.0, rank=2**31 - 1, text=b"x" * 200)
    thousand = TokenLogprob(alternatives=[most] * 1000).ByteSize()
    assert MAX_LOGPROBS / 1000 * thousand < MAX_MESSAGE_BYTES


def test_the_log_probabilities_of_a_call_are_bounded_by_their_number():
    assert (logprob_count(7, None), logprob_count(7, 0), logprob_count(7, 20)) == (0, 7, 147)
    check_logprob_count(MAX_LOGPROBS - 5, 5, "output")
    for of_prompts, of_outputs, field in [
        (MAX_LOGPROBS, 1, "output.logprobs"),
        (0, MAX_LOGPROBS + 1, "output.logprobs"),
        (MAX_LOGPROBS + 1, 0, "output.prompt_logprobs"),
    ]:
        with pytest.raises(ServiceError) as caught:
            check_logprob_count(of_prompts, of_outputs, "output")
        assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, field)
        assert caught.value.reason == "TOO_MANY_LOGPROBS"


@pytest.mark.parametrize(
    ("most", "least", "field"),
    [(0, 0, "max_new_tokens"), (-5, 0, "max_new_tokens"), (None, -1, "min_new_tokens"), (3, 4, "min_new_tokens")],
)
def test_token_limits_that_cannot_be_are_refused(most, least, field):
    with pytest.raises(ServiceError) as caught:
        check_token_limits(most, least, "stopping")
    assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, f"stopping.{field}")


@pytest.mark.parametrize(("most", "least"), [(1, 0), (1, 1), (None, 0), (None, 10_000)])
def test_token_limits_that_can_be_are_accepted(most, least):
    check_token_limits(most, least, "stopping")


def test_a_salt_is_bounded_in_bytes():
    check_salt("é" * 64, "")
    with pytest.raises(ServiceError) as caught:
        check_salt("é" * 65, "rows[0].")
    assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, "rows[0].cache_salt")


SILENT = GenerationDefaults()
# A model's file that asks for sampling, and one that writes values but does not ask.
SAMPLES = GenerationDefaults(do_sample=True, sampling=SamplingParams(temperature=0.5, top_p=0.25, top_k=50))
SAMPLES_ONLY = GenerationDefaults(do_sample=True)
GREEDY = GenerationDefaults(do_sample=False, sampling=SamplingParams(temperature=0.5, top_p=0.25, top_k=50))

#                 given by the caller                  the model's file   temperature, top_p, top_k
EFFECTIVE = [
    ({}, SILENT, (0.0, 1.0, 0)),
    ({"top_p": 0.5}, SILENT, (1.0, 0.5, 0)),
    ({"top_k": 5}, SILENT, (1.0, 1.0, 5)),
    ({"min_p": 0.5}, SILENT, (1.0, 1.0, 0)),
    ({"typical_p": 0.5}, SILENT, (1.0, 1.0, 0)),
    ({"seed": 0}, SILENT, (1.0, 1.0, 0)),
    ({"temperature": 0.75}, SILENT, (0.75, 1.0, 0)),
    ({"temperature": 0.0, "seed": 7, "top_p": 0.5, "top_k": 5}, SILENT, (0.0, 1.0, 0)),
    ({}, SAMPLES, (0.5, 0.25, 50)),
    ({}, SAMPLES_ONLY, (1.0, 1.0, 0)),
    ({"top_p": 0.5}, SAMPLES, (0.5, 0.5, 50)),
    ({"top_k": 0}, SAMPLES, (0.5, 0.25, 0)),
    ({"temperature": 0.0}, SAMPLES, (0.0, 1.0, 0)),
    ({"temperature": 2.0}, SAMPLES, (2.0, 0.25, 50)),
    ({}, GREEDY, (0.0, 1.0, 0)),
    ({"seed": 7}, GREEDY, (1.0, 0.25, 50)),
    ({"temperature": 0.75}, GREEDY, (0.75, 0.25, 50)),
]


@pytest.mark.parametrize(("given", "defaults", "expected"), EFFECTIVE)
def test_what_is_effective(given, defaults, expected):
    effective = effective_sampling(SamplingParams(**given), defaults)
    assert (effective.temperature, effective.top_p, effective.top_k) == expected
    assert all(effective.HasField(name) for name in (*("temperature", "top_p", "top_k"), *(name for name, _ in OTHERS)))
    assert (effective.seed if effective.HasField("seed") else None) == given.get("seed")
    assert effective_sampling(effective, defaults) == effective


# A model's file with the other settings; it asks for sampling or not.
WRITES = SamplingParams(min_p=0.125, typical_p=0.75, repetition_penalty=1.25)
OTHERS = [("min_p", 0.0), ("typical_p", 1.0), ("repetition_penalty", 1.0), ("presence_penalty", 0.0)]
OTHERS += [("frequency_penalty", 0.0)]
# given by the caller, of these: min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty
EFFECTIVE_OTHERS = [
    ({"temperature": 1.0}, SILENT, (0.0, 1.0, 1.0, 0.0, 0.0)),
    ({"temperature": 1.0}, GenerationDefaults(sampling=WRITES), (0.125, 0.75, 1.25, 0.0, 0.0)),
    # a greedy output has no filters, but the penalties, as in transformers
    ({}, GenerationDefaults(sampling=WRITES), (0.0, 1.0, 1.25, 0.0, 0.0)),
    ({}, GenerationDefaults(do_sample=True, sampling=WRITES), (0.125, 0.75, 1.25, 0.0, 0.0)),
    ({"temperature": 0.0, "min_p": 0.5, "typical_p": 0.5}, SILENT, (0.0, 1.0, 1.0, 0.0, 0.0)),
    ({"repetition_penalty": 1.0}, GenerationDefaults(sampling=WRITES), (0.0, 1.0, 1.0, 0.0, 0.0)),
    ({"repetition_penalty": 2.0, "presence_penalty": -0.5, "frequency_penalty": 0.25}, SILENT, (0, 1, 2, -0.5, 0.25)),
    ({"min_p": 0.5}, GenerationDefaults(sampling=WRITES), (0.5, 0.75, 1.25, 0.0, 0.0)),
]


@pytest.mark.parametrize(("given", "defaults", "expected"), EFFECTIVE_OTHERS)
def test_filters_are_for_sampling_and_penalties_for_all(given, defaults, expected):
    effective = effective_sampling(SamplingParams(**given), defaults)
    assert tuple(getattr(effective, name) for name, _ in OTHERS) == expected
    assert effective_sampling(effective, defaults) == effective


def test_a_bias_is_the_callers_and_changes_nothing_else():
    defaults = GenerationDefaults(sampling=SamplingParams(logit_bias={1: 1.0}))
    assert not effective_sampling(SamplingParams(), defaults).logit_bias
    effective = effective_sampling(SamplingParams(logit_bias={7: -3.0}), SILENT)
    assert (effective.temperature, dict(effective.logit_bias)) == (0.0, {7: -3.0})
