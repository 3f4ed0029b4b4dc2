"""What the domain says, as messages: nothing lost, nothing set that is not known."""

from __future__ import annotations

from array import array

import pytest
from grpc import StatusCode

from model_worker.batching.load import LoadSnapshot
from model_worker.batching.refusals import (
    CapacityExceeded,
    Draining,
    EngineBroken,
    QueueFull,
    RequestFailed,
    TooManyRows,
)
from model_worker.batching.row_events import (
    FailedEvent,
    FinishedEvent,
    PromptLogprobsEvent,
    Timing,
    TokensEvent,
    Usage,
)
from model_worker.engine import GenerationDefaults, TokenLogprob
from model_worker.messages import defaults_message, event_messages, load_report, named_errors, row_error
from model_worker.sequence import FinishReason
from rpc.errors import ServiceError
from rpc.token_tensors import unpack_ids
from tokenmill.v1 import generation_pb2


def test_tokens_are_told_with_their_row() -> None:
    [event] = event_messages([TokensEvent(3, array("i", [1, 70_000]))])
    assert (event.row, list(unpack_ids(event.tokens.ids))) == (3, [1, 70_000])


def test_log_probabilities_are_told_with_their_alternatives_and_without_text() -> None:
    likely, drawn = TokenLogprob(7, -0.25, 1), TokenLogprob(70_000, -2.5, 4)
    told = TokenLogprob(70_000, -2.5, 4, (likely, drawn))
    tokens, of_prompt = event_messages(
        [TokensEvent(3, array("i", [70_000]), (told,)), PromptLogprobsEvent(2, (likely,))]
    )
    [message] = tokens.tokens.logprobs
    assert (message.token_id, message.logprob, message.rank, message.text) == (70_000, -2.5, 4, b"")
    assert [(other.token_id, other.logprob, other.rank) for other in message.alternatives] == [
        (7, -0.25, 1),
        (70_000, -2.5, 4),
    ]
    assert (of_prompt.row, of_prompt.WhichOneof("event")) == (2, "prompt_logprobs")
    assert [(one.token_id, one.rank) for one in of_prompt.prompt_logprobs.logprobs] == [(7, 1)]


@pytest.mark.parametrize("reason", FinishReason)
def test_every_end_has_its_name_in_the_contract(reason: FinishReason) -> None:
    ended = FinishedEvent(1, reason, None, Usage(1, 0, 2), Timing(0.0, 0.0, None, 0.0, 0.0))
    [event] = event_messages([ended])
    assert generation_pb2.FinishReason.Name(event.finished.reason) == f"FINISH_REASON_{reason.name}"
    assert not event.finished.HasField("stop_token_id")
    assert not event.finished.timing.HasField("time_to_first_token")


def test_an_end_says_what_was_counted_and_where_the_time_went() -> None:
    ended = FinishedEvent(0, FinishReason.STOP_TOKEN, 0, Usage(5, 4, 3), Timing(0.5, 1.0, 1.5, 2.25, 4.0))
    finished = event_messages([ended])[0].finished
    assert finished.HasField("stop_token_id")
    usage, timing = finished.usage, finished.timing
    assert (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens) == (5, 4, 3)
    phases = (timing.queue, timing.prefill, timing.time_to_first_token, timing.decode, timing.total)
    assert [phase.ToMilliseconds() for phase in phases] == [500, 1000, 1500, 2250, 4000]


def test_only_a_failure_for_want_of_memory_may_be_tried_again() -> None:
    short = row_error(FailedEvent(0, "OUT_OF_MEMORY", "message"))
    assert (short.code, short.retry_after_seconds) == (StatusCode.RESOURCE_EXHAUSTED, 1.0)
    broken = row_error(FailedEvent(0, "LOGITS_NOT_FINITE", "message"))
    assert (broken.code, broken.retry_after_seconds) == (StatusCode.INTERNAL, None)
    failed = event_messages([FailedEvent(2, "LOGITS_NOT_FINITE", "message")])[0].failed
    assert (failed.code, failed.reason, failed.message) == (
        StatusCode.INTERNAL.value[0],
        "LOGITS_NOT_FINITE",
        "message",
    )


@pytest.mark.parametrize(
    ("refusal", "code", "reason", "field"),
    [
        (QueueFull(3, 3), StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", None),
        (CapacityExceeded(9, 8), StatusCode.INVALID_ARGUMENT, "CAPACITY_EXCEEDED", "start.rows"),
        (TooManyRows(9, 8), StatusCode.INVALID_ARGUMENT, "CAPACITY_EXCEEDED", "start.tokens.rows"),
        (Draining(), StatusCode.UNAVAILABLE, "DRAINING", None),
        (EngineBroken(), StatusCode.UNAVAILABLE, "ENGINE_BROKEN", None),
        (RequestFailed("SHUTTING_DOWN", "message"), StatusCode.UNAVAILABLE, "SHUTTING_DOWN", None),
    ],
)
def test_a_refusal_is_an_error_with_its_reason(
    refusal: Exception, code: StatusCode, reason: str, field: str | None
) -> None:
    with pytest.raises(ServiceError) as caught, named_errors():
        raise refusal
    error = caught.value
    assert (error.code, error.reason, error.field) == (code, reason, field)
    assert (error.retry_after_seconds is None) == (code is StatusCode.INVALID_ARGUMENT), "only waiting helps elsewhere"


def test_a_report_counts_from_the_beginning_of_a_step() -> None:
    load = LoadSnapshot(1, 2, 3, 4, 5, 6.0, 7, step_started_at=10.0)
    report = load_report(load, "instance", now=12.5)
    assert report.step_started_ago.ToMilliseconds() == 2500
    assert (report.instance_id, report.running, report.waiting, report.queued_prompt_tokens) == ("instance", 1, 2, 3)
    assert (report.kv_tokens_used, report.kv_tokens_total, report.tokens_per_second, report.step) == (4, 5, 6.0, 7)
    assert load_report(load, "instance", now=9.0).step_started_ago.ToMilliseconds() == 0
    assert not load_report(LoadSnapshot(), "instance", now=1.0).HasField("step_started_ago"), "there was none"


def test_of_the_models_own_settings_only_those_it_writes_are_set() -> None:
    message = defaults_message(GenerationDefaults(temperature=0.5, top_k=0))
    assert {field.name for field, _ in message.sampling.ListFields()} == {"temperature", "top_k"}
    assert not message.HasField("do_sample")
