"""A Start message against what a worker is: each rule by its field, and what holds where nothing is given."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from model_worker.engine import EngineSpec
from model_worker.row_requests import ServedModel, rows_from
from model_worker.sequence import RowParams, SamplingParams
from rpc.errors import ServiceError
from rpc.token_tensors import pack_tensor
from tokenmill.v1 import generation_pb2, worker_pb2

SPEC = EngineSpec(
    vocabulary_size=50,
    context_length=2000,
    kv_capacity_tokens=1500,
    kv_bytes_per_token=1,
    eos_token_ids=frozenset({0}),
    device="cpu",
    dtype="float32",
    quantization="none",
    adapters=("poet", "lawyer"),
)
DEFAULTS = worker_pb2.GenerationDefaults(
    do_sample=True, sampling=generation_pb2.SamplingParams(temperature=0.5, top_k=7)
)
MODEL = ServedModel("tiny", "f" * 64, SPEC, worker_pb2.GenerationDefaults(), default_seed=11)
Row = worker_pb2.RowParams
Sampling = generation_pb2.SamplingParams
Output = generation_pb2.OutputOptions


def start(*rows: tuple[list[int], worker_pb2.RowParams], **given: Any) -> worker_pb2.Start:
    told = {
        "tokens": pack_tensor([ids for ids, _ in rows], 0),
        "rows": [params for _, params in rows],
        "vocabulary_fingerprint": MODEL.vocabulary_fingerprint,
    }
    return worker_pb2.Start(**(told | given))


def test_a_row_that_says_nothing_is_greedy_with_the_workers_seed() -> None:
    [(ids, params)] = rows_from(start(([1, 2, 3], Row())), MODEL)
    assert list(ids) == [1, 2, 3]
    assert params == RowParams(sampling=SamplingParams(seed=11), max_new_tokens=1024)


def test_a_row_says_everything_for_itself() -> None:
    told = Row(
        sampling=Sampling(
            temperature=0.25,
            top_p=0.5,
            top_k=3,
            min_p=0.125,
            typical_p=0.75,
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.5,
            logit_bias={49: 2.5, 0: -100.0},
        ),
        stop_token_ids=[4, 4, 5],
        ignore_eos=True,
        max_new_tokens=9,
        min_new_tokens=2,
        time_limit=Duration(seconds=1, nanos=500_000_000),
        seed=2**64 - 1,
        generated_prefix=2,
        cache_salt="x" * 128,
        output=generation_pb2.OutputOptions(logprobs=True, prompt_logprobs=True, top_logprobs=2),
    )
    _, (ids, params) = rows_from(start(([1], Row()), ([1, 2, 3], told), model="tiny"), MODEL)
    assert list(ids) == [1, 2, 3]
    assert params == RowParams(
        sampling=SamplingParams(
            temperature=0.25,
            top_k=3,
            top_p=0.5,
            min_p=0.125,
            typical_p=0.75,
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.5,
            logit_bias=((0, -100.0), (49, 2.5)),
            seed=2**64 - 1,
        ),
        stop_token_ids=frozenset({4, 5}),
        ignore_eos=True,
        min_new_tokens=2,
        max_new_tokens=9,
        generated_prefix=2,
        time_limit_seconds=1.5,
        logprobs=2,
        prompt_logprobs=2,
        cache_salt="x" * 128,
    )


def test_what_the_models_own_file_says_holds_where_the_row_is_silent() -> None:
    model = ServedModel("tiny", MODEL.vocabulary_fingerprint, SPEC, DEFAULTS, 11)
    [(_, silent), (_, greedy), (_, other)] = rows_from(
        start(([1], Row()), ([1], Row(sampling=Sampling(temperature=0))), ([1], Row(sampling=Sampling(top_k=2)))), model
    )
    assert silent.sampling == SamplingParams(temperature=0.5, top_k=7, seed=11)
    assert greedy.sampling == SamplingParams(seed=11)
    assert other.sampling == SamplingParams(temperature=0.5, top_k=2, seed=11)


@pytest.mark.parametrize(
    ("prompt_tokens", "given", "least", "taken"),
    [
        (10, None, 1024, True),
        (10, None, 1025, False),
        (10, 1400, 1400, True),
        (10, 1400, 1401, False),
        (480, None, 1000, True),  # the context leaves more than 1024
        (1300, None, 200, True),  # the context leaves 700; what the K/V hold leaves 201
    ],
)
def test_the_least_is_compared_with_what_the_row_can_come_to(
    prompt_tokens: int, given: int | None, least: int, taken: bool
) -> None:
    spec = EngineSpec(50, 2000, 3000, 1, frozenset(), "cpu", "float32", "none")
    model = ServedModel("tiny", MODEL.vocabulary_fingerprint, spec, worker_pb2.GenerationDefaults(), 0)
    begin = start(([1] * prompt_tokens, Row(max_new_tokens=given, min_new_tokens=least)))
    if taken:
        assert rows_from(begin, model)[0][1].min_new_tokens == least
        return
    with pytest.raises(ServiceError) as refused:
        rows_from(begin, model)
    assert refused.value.field == "start.rows[0].min_new_tokens"


def test_the_least_is_below_what_the_context_leaves_though_the_row_says_that_it_ended_there() -> None:
    spec = EngineSpec(50, 100, 200, 1, frozenset(), "cpu", "float32", "none")
    model = ServedModel("tiny", MODEL.vocabulary_fingerprint, spec, worker_pb2.GenerationDefaults(), 0)
    [(_, params)] = rows_from(start(([1] * 90, Row(min_new_tokens=10))), model)
    assert params.max_new_tokens == 1024, "the end is the context's, and not this limit's"
    with pytest.raises(ServiceError, match=r"min_new_tokens: must be at most max_new_tokens \(10\), got 11"):
        rows_from(start(([1] * 90, Row(min_new_tokens=11))), model)
    prefixed = Row(min_new_tokens=20, generated_prefix=10)
    assert rows_from(start(([1] * 90, prefixed)), model)[0][1].min_new_tokens == 20, "those of a prefix count"


@pytest.mark.parametrize(("asked_for", "adapter"), [("", ""), ("tiny", ""), ("poet", "poet"), ("lawyer", "lawyer")])
def test_an_adapter_is_asked_for_by_its_name(asked_for: str, adapter: str) -> None:
    rows = rows_from(start(([1], Row()), ([2], Row()), model=asked_for), MODEL)
    assert [params.adapter for _, params in rows] == [adapter, adapter]


def test_log_probabilities_are_counted_by_the_tokens_that_can_come() -> None:
    """128 rows of 1024 tokens have as many as a call may have; what an earlier attempt generated is not counted."""
    asked = Row(output=Output(logprobs=True))
    assert len(rows_from(start(*[([1], asked)] * 128), MODEL)) == 128
    again = Row(output=Output(logprobs=True, top_logprobs=19), max_new_tokens=1025, generated_prefix=1000)
    assert len(rows_from(start(*[([1] * 1001, again)] * 200), MODEL)) == 200
    scored = Row(output=Output(prompt_logprobs=True, top_logprobs=20), max_new_tokens=1)
    assert len(rows_from(start(*[([1] * 1000, scored)] * 6), MODEL)) == 6
    with pytest.raises(ServiceError) as refused:
        rows_from(start(*[([1] * 1000, scored)] * 7), MODEL)
    assert refused.value.field == "start.rows.output.prompt_logprobs"


INVALID = StatusCode.INVALID_ARGUMENT
REFUSED: list[tuple[worker_pb2.Start, StatusCode, str, str]] = [
    (start(([1], Row()), model="other"), StatusCode.NOT_FOUND, "UNKNOWN_MODEL", "start.model"),
    (
        start(([1], Row()), vocabulary_fingerprint="0"),
        StatusCode.FAILED_PRECONDITION,
        "VOCABULARY_MISMATCH",
        "start.vocabulary_fingerprint",
    ),
    (start(([50], Row())), INVALID, "INVALID_FIELD", "start.tokens.input_ids"),
    (start(([1], Row()), rows=[]), INVALID, "INVALID_FIELD", "start.rows"),
    (start(([1], Row()), rows=[Row(), Row()]), INVALID, "INVALID_FIELD", "start.rows"),
    (start(([1] * 2000, Row())), INVALID, "CONTEXT_LENGTH_EXCEEDED", "start.tokens"),
    (start(([1] * 600, Row())), INVALID, "CAPACITY_EXCEEDED", "start.rows[0].max_new_tokens"),
    (start(([1], Row(sampling=Sampling(min_p=-0.1)))), INVALID, "INVALID_FIELD", "sampling.min_p"),
    (start(([1], Row(sampling=Sampling(logit_bias={50: 1.0})))), INVALID, "INVALID_FIELD", "sampling.logit_bias"),
    (start(([1], Row(output=Output(top_logprobs=1)))), INVALID, "INVALID_FIELD", "output.top_logprobs"),
    (
        start(*[([1], Row(output=Output(logprobs=True)))] * 129),
        INVALID,
        "TOO_MANY_LOGPROBS",
        "start.rows.output.logprobs",
    ),
    (start(([1], Row(priority=1))), StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", "priority"),
    (start(([1], Row(sampling=Sampling(seed=1)))), INVALID, "INVALID_FIELD", "sampling.seed"),
    (start(([1], Row(stop_token_ids=[50]))), INVALID, "INVALID_FIELD", "stop_token_ids"),
    (start(([1], Row(stop_token_ids=[1] * 65))), INVALID, "INVALID_FIELD", "stop_token_ids"),
    (start(([1], Row(max_new_tokens=0))), INVALID, "INVALID_FIELD", "max_new_tokens"),
    (start(([1], Row(generated_prefix=1))), INVALID, "INVALID_FIELD", "generated_prefix"),
    (start(([1, 1, 1], Row(generated_prefix=2, max_new_tokens=2))), INVALID, "INVALID_FIELD", "generated_prefix"),
    (start(([1], Row(time_limit=Duration(seconds=-1)))), INVALID, "INVALID_FIELD", "time_limit"),
]


@pytest.mark.parametrize(
    ("begin", "code", "reason", "field"), REFUSED, ids=[f"{case[2]} {case[3]}" for case in REFUSED]
)
def test_a_mistake_is_refused_with_its_field(
    begin: worker_pb2.Start, code: StatusCode, reason: str, field: str
) -> None:
    with pytest.raises(ServiceError) as refused:
        rows_from(begin, MODEL)
    full = field if field.startswith("start.") else f"start.rows[0].{field}"
    assert (refused.value.code, refused.value.reason, refused.value.field) == (code, reason, full)
