"""From a checked request and its encoded prompts to the rows a worker is asked for."""

from __future__ import annotations

import dataclasses
import secrets
from array import array
from collections.abc import Mapping

from gateway.generation import EncodedPrompts, Generation, Row, Sampling, Started
from gateway.models import ServedModel
from rpc.errors import invalid_field
from rpc.seeds import mix64

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
    drawn. Errors: ServiceError (INVALID_ARGUMENT) where a prompt leaves no room in the context, or
    min_new_tokens does not fit into what is left.
    """
    stopping = generation.stopping
    for index, ids in enumerate(prompts.rows):
        _check_prompt(index, ids, model)
    limits = tuple(model.max_new_tokens(stopping.max_new_tokens, len(ids)) for ids in prompts.rows)
    for limit in limits:
        if stopping.min_new_tokens > limit:
            message = f"must be at most what is left for the output ({limit}), got {stopping.min_new_tokens}"
            raise invalid_field("stopping.min_new_tokens", message)
    sampling = model.effective_sampling(generation.sampling)
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    time_limit = stopping.time_limit_seconds
    rows = [
        Row(
            ids=ids,
            sampling=dataclasses.replace(sampling, seed=mix64(seed, sample)),
            stop_token_ids=frozenset(stopping.stop_token_ids).union(special_stops.values()),
            ignore_eos=stopping.ignore_eos,
            min_new_tokens=stopping.min_new_tokens,
            max_new_tokens=limit,
            time_limit_seconds=None
            if time_limit is None
            else max(LEAST_TIME_LIMIT_SECONDS, time_limit - elapsed_seconds),
            cache_salt=generation.cache_salt,
        )
        for ids, limit in zip(prompts.rows, limits, strict=True)
        for sample in range(generation.n)
    ]
    return RowPlan(
        rows=tuple(rows),
        sampling=dataclasses.replace(sampling, seed=seed),
        prompt_tokens=tuple(len(ids) for ids in prompts.rows),
        max_new_tokens=limits,
        special_stops={token_id: text for text, token_id in special_stops.items()},
    )


def _check_prompt(index: int, ids: array[int], model: ServedModel) -> None:
    if len(ids) >= model.context_length:
        message = (
            f"prompt {index} has {len(ids)} tokens, the context of model {model.name!r} is {model.context_length} "
            "tokens and has to hold the output too"
        )
        raise invalid_field("input", message, reason="CONTEXT_LENGTH_EXCEEDED")
    if min(ids) < 0 or max(ids) >= model.vocabulary_size:
        message = f"has an id outside the vocabulary (0 to {model.vocabulary_size - 1})"
        raise invalid_field(f"token_prompts.prompts[{index}].ids", message)
