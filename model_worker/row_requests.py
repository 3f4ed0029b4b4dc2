"""A `Start` message, checked against what this worker is, as rows for the generation loop."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model_worker.batching.capacity import check_capacity
from model_worker.batching.inbox import SubmittedRow
from model_worker.batching.refusals import CapacityExceeded
from model_worker.engine import EngineSpec
from model_worker.sequence import RowParams, SamplingParams
from rpc.errors import invalid_field, not_implemented, unknown_model, vocabulary_mismatch
from rpc.generation_params import (
    MAX_STOP_TOKEN_IDS,
    alternatives,
    check_logprob_count,
    check_output_options,
    check_salt,
    check_sampling,
    check_time_limit,
    check_token_ids,
    check_token_limits,
    effective_sampling,
    logprob_count,
)
from rpc.token_tensors import unpack_tensor
from tokenmill.v1 import worker_pb2

# Where a row gives no max_new_tokens, and the context leaves more than that.
DEFAULT_MAX_NEW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What requests are checked against."""

    name: str
    vocabulary_fingerprint: str
    spec: EngineSpec
    defaults: worker_pb2.GenerationDefaults
    default_seed: int


def rows_from(start: worker_pb2.Start, model: ServedModel) -> list[SubmittedRow]:
    """The rows of a request. Errors: ServiceError naming the field; nothing has been scheduled then."""
    adapter = "" if start.model in {"", model.name} else start.model
    if adapter and adapter not in model.spec.adapters:
        raise unknown_model(start.model).with_prefix("start.")
    if start.vocabulary_fingerprint != model.vocabulary_fingerprint:
        raise vocabulary_mismatch().with_prefix("start.")
    rows = unpack_tensor(start.tokens, model.spec.vocabulary_size, "start.tokens")
    if len(start.rows) != len(rows):
        raise invalid_field("start.rows", f"one per row of the tensor is needed: {len(rows)}, got {len(start.rows)}")
    checked = [
        (ids, _row(index, ids, params, model, adapter))
        for index, (ids, params) in enumerate(zip(rows, start.rows, strict=True))
    ]
    _check_logprob_count(checked, model.spec)
    return checked


def _row(index: int, ids: array[int], params: worker_pb2.RowParams, model: ServedModel, adapter: str) -> RowParams:
    field, spec = f"start.rows[{index}]", model.spec
    prefix = params.generated_prefix
    if not 0 <= prefix < len(ids):
        raise invalid_field(f"{field}.generated_prefix", f"must be 0 to {len(ids) - 1}, got {prefix}")
    if len(ids) >= spec.context_length:
        message = f"row {index} has {len(ids)} tokens, the context is {spec.context_length} and has to hold more"
        raise invalid_field("start.tokens", message, reason="CONTEXT_LENGTH_EXCEEDED")
    limit = _max_new_tokens(params, len(ids) - prefix, field, spec)
    if prefix >= limit:
        raise invalid_field(f"{field}.generated_prefix", f"must be below max_new_tokens ({limit}), got {prefix}")
    check_output_options(params.output, f"{field}.output")
    check_salt(params.cache_salt, f"{field}.")
    if params.priority:  # gateways decide who goes first, before they send anything
        raise not_implemented(f"{field}.priority", "a priority other than 0")
    has_limit = params.HasField("time_limit")
    logprobs, prompt_logprobs = alternatives(params.output)
    return RowParams(
        sampling=_sampling(params, f"{field}.sampling", model),
        stop_token_ids=_stop_token_ids(params.stop_token_ids, field, spec),
        ignore_eos=params.ignore_eos,
        min_new_tokens=params.min_new_tokens,
        max_new_tokens=limit,
        generated_prefix=prefix,
        time_limit_seconds=check_time_limit(params.time_limit, f"{field}.time_limit") if has_limit else None,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        cache_salt=params.cache_salt,
        adapter=adapter,
    )


def _max_new_tokens(params: worker_pb2.RowParams, prompt_tokens: int, field: str, spec: EngineSpec) -> int:
    has_limit = params.HasField("max_new_tokens")
    limit = params.max_new_tokens if has_limit else DEFAULT_MAX_NEW_TOKENS
    reachable = limit if has_limit else min(limit, spec.context_length - prompt_tokens)
    check_token_limits(reachable, params.min_new_tokens, field)
    try:
        check_capacity(prompt_tokens, limit, spec)
    except CapacityExceeded as error:
        raise invalid_field(f"{field}.max_new_tokens", str(error), reason=error.reason) from None
    return limit  # and not `reachable`: a row that ends at the context says so


def _sampling(params: worker_pb2.RowParams, field: str, model: ServedModel) -> SamplingParams:
    if params.sampling.HasField("seed"):
        raise invalid_field(f"{field}.seed", "must not be given: a row's seed is the seed of its RowParams")
    check_sampling(params.sampling, field)
    check_token_ids(params.sampling.logit_bias, model.spec.vocabulary_size, f"{field}.logit_bias")
    effective = effective_sampling(params.sampling, model.defaults)
    return SamplingParams(
        temperature=effective.temperature,
        top_k=effective.top_k,
        top_p=effective.top_p,
        min_p=effective.min_p,
        typical_p=effective.typical_p,
        repetition_penalty=effective.repetition_penalty,
        presence_penalty=effective.presence_penalty,
        frequency_penalty=effective.frequency_penalty,
        logit_bias=tuple(sorted(effective.logit_bias.items())),
        seed=params.seed if params.HasField("seed") else model.default_seed,
    )


def _stop_token_ids(ids: Sequence[int], field: str, spec: EngineSpec) -> frozenset[int]:
    if len(ids) > MAX_STOP_TOKEN_IDS:
        raise invalid_field(f"{field}.stop_token_ids", f"at most {MAX_STOP_TOKEN_IDS}, got {len(ids)}")
    check_token_ids(ids, spec.vocabulary_size, f"{field}.stop_token_ids")
    return frozenset(ids)


def _check_logprob_count(rows: Iterable[SubmittedRow], spec: EngineSpec) -> None:
    of_prompts = of_outputs = 0
    for ids, params in rows:
        prompt_tokens = len(ids) - params.generated_prefix
        new_tokens = min(params.max_new_tokens, spec.context_length - prompt_tokens) - params.generated_prefix
        of_prompts += logprob_count(prompt_tokens - 1, params.prompt_logprobs)
        of_outputs += logprob_count(new_tokens, params.logprobs)
    check_logprob_count(of_prompts, of_outputs, "start.rows.output")
