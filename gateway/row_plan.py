"""From a checked request and its encoded prompts to the rows a worker is asked for."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping

from gateway.generation import EncodedPrompts, Generation, Row, Sampling, Started, Stopping
from gateway.models import ServedModel
from rpc.errors import invalid_field
from rpc.generation_params import MAX_STOP_TOKEN_IDS, check_logprob_count, check_token_ids, logprob_count
from rpc.seeds import mix64
from rpc.token_tensors import MAX_TENSOR_BYTES, tensor_bytes

# What a row is given whose request used up its time on the way: enough for the worker to say TIME_LIMIT itself.
LEAST_TIME_LIMIT_SECONDS = 0.001


@dataclasses.dataclass(frozen=True, slots=True)
class RowPlan:
    """All rows of one request, in the order of their output's index (prompt x n + sample)."""

    rows: tuple[Row, ...]
    sampling: Sampling  # effective, with the seed of sample 0
    prompt_tokens: tuple[int, ...]  # per prompt
    max_new_tokens: tuple[int, ...]  # per prompt
    special_stops: Mapping[int, str]  # stop strings that are special tokens, by id: the worker stops at them itself

    def started(self, model: ServedModel) -> Started:
        """The event that tells the caller what is effective."""
        return Started(model.name, self.sampling, self.max_new_tokens, self.prompt_tokens)


def plan_rows(
    generation: Generation,
    prompts: EncodedPrompts,
    model: ServedModel,
    special_stops: Mapping[str, int],
    elapsed_seconds: float,
) -> RowPlan:
    """Make one row per prompt and sample, `elapsed_seconds` after the request arrived.

    `special_stops` are the stop strings that are special tokens, with their ids. Where the caller gave no seed, one is
    drawn. Errors: ServiceError (INVALID_ARGUMENT) for what is wrong with this model only: ids outside its vocabulary,
    a prompt that leaves no room in its context, min_new_tokens that do not fit into what is left, too many
    log-probabilities.
    """
    stopping = generation.stopping
    check_vocabulary(generation, prompts, model)
    limits = _output_limits(generation, prompts, model)
    _check_size(generation, prompts)
    _check_logprob_count(generation, prompts, limits)
    stop_token_ids = _stop_token_ids(stopping, special_stops)
    sampling, seed = effective_sampling(generation, model)
    time_limit = stopping.time_limit_seconds
    if time_limit is not None:
        time_limit = max(LEAST_TIME_LIMIT_SECONDS, time_limit - elapsed_seconds)
    rows = [
        Row(
            ids=ids,
            sampling=dataclasses.replace(sampling, seed=mix64(seed, sample)),
            stop_token_ids=stop_token_ids,
            ignore_eos=stopping.ignore_eos,
            min_new_tokens=stopping.min_new_tokens,
            # Not what is left of the context: the worker knows that too, and says which of the two ended the output.
            max_new_tokens=model.wanted_new_tokens(stopping.max_new_tokens),
            time_limit_seconds=time_limit,
            cache_salt=generation.cache_salt,
            logprobs=generation.logprobs,
            prompt_logprobs=None if sample else generation.prompt_logprobs,
        )
        for ids in prompts.rows
        for sample in range(generation.n)
    ]
    return RowPlan(
        rows=tuple(rows),
        sampling=sampling,
        prompt_tokens=tuple(len(ids) for ids in prompts.rows),
        max_new_tokens=limits,
        special_stops={token_id: text for text, token_id in special_stops.items()},
    )


def effective_sampling(generation: Generation, model: ServedModel) -> tuple[Sampling, int]:
    """What holds after all defaults, with the seed: the caller's or, where none was given, one drawn here."""
    sampling = model.effective_sampling(generation.sampling)
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    return dataclasses.replace(sampling, seed=seed), seed


def check_vocabulary(generation: Generation, prompts: EncodedPrompts, model: ServedModel) -> None:
    """Refuse ids that the model does not know. Errors: ServiceError naming the field."""
    message = f"has an id outside the vocabulary (0 to {model.vocabulary_size - 1})"
    for index, ids in enumerate(prompts.rows):
        if min(ids) < 0 or max(ids) >= model.vocabulary_size:
            raise invalid_field(generation.prompt_field(index), message)
    check_token_ids(generation.stopping.stop_token_ids, model.vocabulary_size, "stopping.stop_token_ids")
    biased = (token_id for token_id, _ in generation.sampling.logit_bias)
    check_token_ids(biased, model.vocabulary_size, "sampling.logit_bias")


def _output_limits(generation: Generation, prompts: EncodedPrompts, model: ServedModel) -> tuple[int, ...]:
    """The bound of the outputs of each prompt."""
    limits = []
    for index, ids in enumerate(prompts.rows):
        if len(ids) >= model.context_length:
            message = (
                f"has {len(ids)} tokens, the context of model {model.name!r} is {model.context_length} tokens and has "
                "to hold the output too"
            )
            raise invalid_field(generation.prompt_field(index), message, reason="CONTEXT_LENGTH_EXCEEDED")
        limit = model.max_new_tokens(generation.stopping.max_new_tokens, len(ids))
        if generation.stopping.min_new_tokens > limit:
            message = f"must be at most what is left for the output ({limit}), got {generation.stopping.min_new_tokens}"
            raise invalid_field("stopping.min_new_tokens", message)
        limits.append(limit)
    return tuple(limits)


def _check_size(generation: Generation, prompts: EncodedPrompts) -> None:
    """All rows go to the worker as one tensor, each as wide as the longest."""
    width = max(len(ids) for ids in prompts.rows)
    rows = len(prompts.rows) * generation.n
    if tensor_bytes(rows, width) > MAX_TENSOR_BYTES:
        message = f"{rows} outputs after prompts of up to {width} tokens are too much for one call: send fewer"
        raise invalid_field("n", message, reason="CAPACITY_EXCEEDED")


def _check_logprob_count(generation: Generation, prompts: EncodedPrompts, limits: tuple[int, ...]) -> None:
    of_prompts = logprob_count(sum(len(ids) - 1 for ids in prompts.rows), generation.prompt_logprobs)
    of_outputs = logprob_count(generation.n * sum(limits), generation.logprobs)
    check_logprob_count(of_prompts, of_outputs, "output")


def _stop_token_ids(stopping: Stopping, special_stops: Mapping[str, int]) -> frozenset[int]:
    ids = frozenset(stopping.stop_token_ids).union(special_stops.values())
    if len(ids) > MAX_STOP_TOKEN_IDS:
        message = f"at most {MAX_STOP_TOKEN_IDS} with the stop strings that are special tokens, got {len(ids)}"
        raise invalid_field("stopping.stop_token_ids", message)
    return ids
