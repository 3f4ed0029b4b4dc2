"""What the worker's domain says, as the contract's messages and errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from grpc import StatusCode

from model_worker.batching.load import LoadSnapshot
from model_worker.batching.refusals import CapacityExceeded, QueueFull, Refusal, RequestFailed, TooManyRows
from model_worker.batching.row_events import (
    FailedEvent,
    FinishedEvent,
    PromptLogprobsEvent,
    RowEvent,
    Timing,
    TokensEvent,
    Usage,
)
from model_worker.engine import GenerationDefaults, TokenLogprob
from rpc.errors import ServiceError, invalid_field, queue_full, unavailable
from rpc.status import to_duration, to_output_error
from rpc.token_tensors import pack_ids
from tokenmill.v1 import generation_pb2, worker_pb2

RETRY_AFTER_SECONDS = 1.0


def event_messages(events: Sequence[RowEvent]) -> list[worker_pb2.RowEvent]:
    """What happened to rows, as messages."""
    return [_event_message(event) for event in events]


def row_error(event: FailedEvent) -> ServiceError:
    """Why a row failed; running out of memory is the one reason that may pass."""
    if event.reason == "OUT_OF_MEMORY":
        return ServiceError(
            StatusCode.RESOURCE_EXHAUSTED, event.reason, event.message, retry_after_seconds=RETRY_AFTER_SECONDS
        )
    return ServiceError(StatusCode.INTERNAL, event.reason, event.message)


@contextmanager
def named_errors() -> Iterator[None]:
    """Raise the domain's refusals in the body as ServiceErrors."""
    try:
        yield
    except QueueFull:
        raise queue_full("the worker's queue", RETRY_AFTER_SECONDS) from None
    except CapacityExceeded as error:
        raise invalid_field("start.rows", str(error), reason=error.reason) from None
    except TooManyRows as error:
        raise invalid_field("start.tokens.rows", str(error), reason=error.reason) from None
    except (Refusal, RequestFailed) as error:
        raise unavailable(error.reason, str(error)) from None


def load_report(load: LoadSnapshot, instance_id: str, now: float) -> worker_pb2.LoadReport:
    """The load, as seen at `now` (seconds, the worker's clock)."""
    report = worker_pb2.LoadReport(
        instance_id=instance_id,
        running=load.running,
        waiting=load.waiting,
        queued_prompt_tokens=load.queued_prompt_tokens,
        kv_tokens_used=load.kv_tokens_used,
        kv_tokens_total=load.kv_tokens_total,
        tokens_per_second=load.tokens_per_second,
        step=load.step,
    )
    if load.step_started_at is not None:
        report.step_started_ago.CopyFrom(to_duration(max(0.0, now - load.step_started_at)))
    return report


def defaults_message(defaults: GenerationDefaults) -> worker_pb2.GenerationDefaults:
    """What the model's own file says about sampling; what it does not say is not set."""
    return worker_pb2.GenerationDefaults(
        do_sample=defaults.do_sample,
        sampling=generation_pb2.SamplingParams(
            temperature=defaults.temperature,
            top_p=defaults.top_p,
            top_k=defaults.top_k,
            min_p=defaults.min_p,
            typical_p=defaults.typical_p,
            repetition_penalty=defaults.repetition_penalty,
        ),
    )


def _event_message(event: RowEvent) -> worker_pb2.RowEvent:
    match event:
        case TokensEvent(row, ids, logprobs):
            tokens = worker_pb2.RowEvent.Tokens(ids=pack_ids(ids), logprobs=map(_logprob, logprobs))
            return worker_pb2.RowEvent(row=row, tokens=tokens)
        case PromptLogprobsEvent(row, logprobs):
            of_prompt = worker_pb2.RowEvent.PromptLogprobs(logprobs=map(_logprob, logprobs))
            return worker_pb2.RowEvent(row=row, prompt_logprobs=of_prompt)
        case FinishedEvent(row):
            finished = worker_pb2.RowEvent.Finished(
                reason=generation_pb2.FinishReason.Value(f"FINISH_REASON_{event.reason.name}"),
                stop_token_id=event.matched_token_id,
                usage=_usage(event.usage),
                timing=_timing(event.timing),
            )
            return worker_pb2.RowEvent(row=row, finished=finished)
        case FailedEvent(row):
            return worker_pb2.RowEvent(row=row, failed=to_output_error(row_error(event)))


def _logprob(told: TokenLogprob) -> generation_pb2.TokenLogprob:
    return generation_pb2.TokenLogprob(
        token_id=told.token_id,
        logprob=told.logprob,
        rank=told.rank,
        alternatives=map(_logprob, told.alternatives),
    )


def _usage(usage: Usage) -> generation_pb2.Usage:
    return generation_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _timing(timing: Timing) -> generation_pb2.Timing:
    first_token = timing.time_to_first_token_seconds
    return generation_pb2.Timing(
        queue=to_duration(timing.queue_seconds),
        prefill=to_duration(timing.prefill_seconds),
        time_to_first_token=None if first_token is None else to_duration(first_token),
        decode=to_duration(timing.decode_seconds),
        total=to_duration(timing.total_seconds),
    )
