"""Rows and what happens to them, as the messages of `worker.proto`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from gateway.generation import (
    FinishReason,
    Row,
    RowEvent,
    RowFailed,
    RowFinished,
    RowPromptLogprobs,
    RowTokens,
    Timing,
    Usage,
)
from gateway.model_description import to_message
from gateway.models import ServedModel
from gateway.text.token_logprob import TokenLogprob
from rpc.status import from_output_error, to_duration, to_seconds
from rpc.token_tensors import pack_tensor, unpack_ids
from tokenmill.v1 import generation_pb2, worker_pb2


def start_message(model: ServedModel, rows: Sequence[Row], fingerprint: str) -> worker_pb2.Start:
    """Ask for `rows` of `model`, whose ids were made by the vocabulary of `fingerprint`."""
    pad_token_id = min(model.eos_token_ids, default=0)  # masked: any id of the vocabulary will do
    return worker_pb2.Start(
        tokens=pack_tensor([row.ids for row in rows], pad_token_id),
        rows=[_row_params(row) for row in rows],
        model=model.name,
        vocabulary_fingerprint=fingerprint,
    )


def row_event(event: worker_pb2.RowEvent) -> RowEvent:
    """What happened to one row."""
    match event.WhichOneof("event"):
        case "tokens":
            return RowTokens(event.row, unpack_ids(event.tokens.ids), _logprobs(event.tokens.logprobs))
        case "prompt_logprobs":
            return RowPromptLogprobs(event.row, _logprobs(event.prompt_logprobs.logprobs))
        case "finished":
            finished = event.finished
            stop_token_id = finished.stop_token_id if finished.HasField("stop_token_id") else None
            reason = FinishReason(finished.reason)
            return RowFinished(event.row, reason, stop_token_id, _usage(finished.usage), _timing(finished.timing))
        case _:
            return RowFailed(event.row, from_output_error(event.failed))


def _row_params(row: Row) -> worker_pb2.RowParams:
    params = worker_pb2.RowParams(
        sampling=to_message(dataclasses.replace(row.sampling, seed=None)),
        seed=row.sampling.seed,
        stop_token_ids=sorted(row.stop_token_ids),
        ignore_eos=row.ignore_eos,
        max_new_tokens=row.max_new_tokens,
        min_new_tokens=row.min_new_tokens,
        cache_salt=row.cache_salt,
        generated_prefix=row.generated_prefix,
        output=generation_pb2.OutputOptions(
            logprobs=row.logprobs is not None,
            prompt_logprobs=row.prompt_logprobs is not None,
            top_logprobs=row.logprobs or row.prompt_logprobs or 0,  # the same number where both are asked for
        ),
    )
    if row.time_limit_seconds is not None:
        params.time_limit.CopyFrom(to_duration(row.time_limit_seconds))
    return params


def _logprobs(told: Iterable[generation_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple([TokenLogprob(one.token_id, one.logprob, one.rank, _logprobs(one.alternatives)) for one in told])


def _usage(usage: generation_pb2.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens)


def _timing(timing: generation_pb2.Timing) -> Timing:
    return Timing(
        queue=to_seconds(timing.queue),
        prefill=to_seconds(timing.prefill),
        time_to_first_token=to_seconds(timing.time_to_first_token),
        decode=to_seconds(timing.decode),
        total=to_seconds(timing.total),
    )
