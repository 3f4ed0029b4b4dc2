"""The ranges of the contract, and what is effective when something is not given."""

from __future__ import annotations

import math

import grpc
import pytest

from rpc.errors import ServiceError
from rpc.generation_params import (
    LATER_SAMPLING,
    check_output_options,
    check_sampling,
    check_scheduling,
    check_token_limits,
    effective_sampling,
    unapplied_defaults,
)
from tokenmill.v1.generation_pb2 import OutputOptions, SamplingParams
from tokenmill.v1.worker_pb2 import GenerationDefaults

STATUS = grpc.StatusCode
NAN, INF = math.nan, math.inf

REFUSED = (
    [("temperature", value) for value in (-0.1, -1e-30, 100.1, NAN, INF, -INF)]
    + [("top_p", value) for value in (0.0, -0.5, 1.001, NAN, INF)]
    + [("top_k", value) for value in (-1, -(2**31))]
)
ACCEPTED = [
    {}, {"temperature": 0.0}, {"temperature": -0.0}, {"temperature": 100.0}, {"temperature": 1e-30}, {"top_p": 1.0},
    {"top_p": 1e-30}, {"top_k": 0}, {"top_k": 2**31 - 1}, {"seed": 0}, {"seed": 2**64 - 1},
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ServiceError) as caught:
        check_sampling(SamplingParams(**{name: value}), "rows[3].sampling")
    assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, f"rows[3].sampling.{name}")


@pytest.mark.parametrize("given", ACCEPTED)
def test_the_ends_of_the_ranges_are_inside(given):
    check_sampling(SamplingParams(**given), "sampling")


@pytest.mark.parametrize("name", LATER_SAMPLING)
@pytest.mark.parametrize("value", [0.0, 0.5, NAN])
def test_what_a_later_release_will_do_is_refused_and_never_ignored(name, value):
    with pytest.raises(ServiceError) as caught:
        check_sampling(SamplingParams(**{name: value}), "sampling")
    assert (caught.value.code, caught.value.field) == (STATUS.UNIMPLEMENTED, f"sampling.{name}")


def test_a_logit_bias_is_refused():
    with pytest.raises(ServiceError) as caught:
        check_sampling(SamplingParams(logit_bias={7: 1.0}), "sampling")
    assert (caught.value.code, caught.value.field) == (STATUS.UNIMPLEMENTED, "sampling.logit_bias")


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"top_logprobs": -1}, STATUS.INVALID_ARGUMENT, "output.top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, STATUS.INVALID_ARGUMENT, "output.top_logprobs"),
        ({"logprobs": True}, STATUS.UNIMPLEMENTED, "output.logprobs"),
        ({"top_logprobs": 20}, STATUS.UNIMPLEMENTED, "output.top_logprobs"),
        ({"prompt_logprobs": True}, STATUS.UNIMPLEMENTED, "output.prompt_logprobs"),
    ],
)
def test_output_options_that_are_wrong_or_not_there_yet_are_refused(given, code, field):
    with pytest.raises(ServiceError) as caught:
        check_output_options(OutputOptions(**given), "output")
    assert (caught.value.code, caught.value.field) == (code, field)


def test_the_other_output_options_are_accepted():
    check_output_options(OutputOptions(token_ids=True, keep_special_tokens=True), "output")


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


def test_a_salt_is_bounded_in_bytes_and_a_priority_is_for_later():
    check_scheduling("é" * 64, 0, "")
    with pytest.raises(ServiceError) as caught:
        check_scheduling("é" * 65, 0, "rows[0].")
    assert (caught.value.code, caught.value.field) == (STATUS.INVALID_ARGUMENT, "rows[0].cache_salt")
    with pytest.raises(ServiceError) as caught:
        check_scheduling("", -1, "")
    assert (caught.value.code, caught.value.field) == (STATUS.UNIMPLEMENTED, "priority")


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
    assert all(effective.HasField(name) for name in ("temperature", "top_p", "top_k"))
    assert (effective.seed if effective.HasField("seed") else None) == given.get("seed")
    assert effective_sampling(effective, defaults) == effective


def test_what_the_models_file_sets_and_is_not_applied_is_named():
    sampling = SamplingParams(temperature=0.7, min_p=0, typical_p=1, repetition_penalty=1.05)
    assert unapplied_defaults(GenerationDefaults(sampling=sampling)) == ["repetition_penalty=1.05"]
    assert unapplied_defaults(GenerationDefaults()) == []
