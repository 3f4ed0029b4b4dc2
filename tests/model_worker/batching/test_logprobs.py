"""Log-probabilities reach their reader once, in order, beside their tokens, however a row was computed."""

from __future__ import annotations

import asyncio
from array import array
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from model_worker.batching.generation_loop import GenerationLoop
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.engine import RowFailure, Segment
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import fail_rows, memory_for
from model_worker.sequence import RowParams
from tests.model_worker.generation_support import expected, expected_logprobs, hear, ids_of, sampled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from model_worker.engines.fake_faults import Fault

MODEL = FakeModel(vocabulary_size=97, context_length=60, kv_capacity_tokens=240)
ROOMY = SchedulerLimits(max_num_seqs=5, max_num_batched_tokens=7, max_queue=8)
SCORED = RowParams(max_new_tokens=20, logprobs=2, prompt_logprobs=3)


@asynccontextmanager
async def running(model: FakeModel, *faults: Fault, limits: SchedulerLimits = ROOMY) -> AsyncIterator[GenerationLoop]:
    loop = GenerationLoop(FakeEngine(model, *faults), limits)
    loop.start(asyncio.get_running_loop())
    try:
        yield loop
    finally:
        await asyncio.to_thread(loop.close)


def prompt(number: int, tokens: int) -> array[int]:
    return ids_of(*[(number + 7 * place) % MODEL.vocabulary_size for place in range(tokens)])


async def check(loop: GenerationLoop, rows: list[tuple[array[int], RowParams]], model: FakeModel = MODEL) -> None:
    """Each row says of itself what the arithmetic says of it alone."""
    heard = await hear(loop.submit(rows))
    for index, (ids, params) in enumerate(rows):
        tokens, reason = expected(ids, params, model)
        of_prompt = list(ids[1 : len(ids) - params.generated_prefix])
        assert heard.tokens[index] == tokens
        assert heard.ends[index].reason is reason
        assert heard.logprobs[index] == expected_logprobs(ids, tokens, params.logprobs, model, params.adapter)
        wanted = expected_logprobs(ids[:1], of_prompt, params.prompt_logprobs, model, params.adapter)
        assert heard.prompt_logprobs[index] == wanted


async def test_rows_that_ask_for_different_things_share_a_batch() -> None:
    rows = [
        (prompt(1, 17), SCORED),
        (prompt(2, 5), RowParams(max_new_tokens=9)),
        (prompt(3, 11), sampled(2**64 - 1, max_new_tokens=9, logprobs=0)),
        (prompt(4, 1), RowParams(max_new_tokens=2, prompt_logprobs=20)),
        (prompt(5, 30), RowParams(max_new_tokens=1, prompt_logprobs=0)),
    ]
    async with running(MODEL) as loop:
        await check(loop, rows)


async def test_a_prompt_is_scored_whole_though_others_have_its_keys_and_values() -> None:
    ids = prompt(1, 20)
    async with running(MODEL) as loop:
        await check(loop, [(ids, RowParams(max_new_tokens=3)), (ids, SCORED), (ids, RowParams(max_new_tokens=4))])
        await check(loop, [(ids, SCORED)])
        await check(loop, [(ids, SCORED), (ids, SCORED)])


async def test_a_row_that_gave_way_scores_its_prompt_once() -> None:
    cramped = FakeModel(vocabulary_size=97, context_length=60, kv_capacity_tokens=64)
    rows = [(prompt(number, 12), SCORED) for number in range(4)]
    async with running(cramped) as loop:
        await check(loop, rows, cramped)


async def test_a_step_that_is_halved_for_want_of_memory_loses_nothing() -> None:
    rows = [(prompt(number, 15), SCORED) for number in range(3)]
    async with running(MODEL, memory_for(2)) as loop:
        await check(loop, rows)


async def test_a_replayed_row_scores_its_prompt_and_only_new_tokens() -> None:
    ids = prompt(1, 12)
    tokens, _ = expected(ids, RowParams(max_new_tokens=5), MODEL)
    again = RowParams(max_new_tokens=20, generated_prefix=5, logprobs=2, prompt_logprobs=1)
    async with running(MODEL) as loop:
        await check(loop, [(ids + ids_of(*tokens), again)])


async def test_adapters_of_one_batch_have_their_own() -> None:
    model = FakeModel(vocabulary_size=97, context_length=60, kv_capacity_tokens=240, adapters=("poet", "lawyer"))
    ids = prompt(1, 12)
    rows = [
        (ids, RowParams(max_new_tokens=5, logprobs=1, adapter=adapter)) for adapter in ("", "poet", "lawyer", "poet")
    ]
    async with running(model) as loop:
        await check(loop, rows, model)


@pytest.mark.parametrize("faulty_step", [1, 3])
async def test_a_row_that_fails_while_its_prompt_is_scored_fails_alone(faulty_step: int) -> None:
    failure = RowFailure("LOGITS_NOT_FINITE", "not numbers")
    victim, other = prompt(1, 30), prompt(50, 9)

    def fails(step: int, segment: Segment) -> bool:
        return step >= faulty_step and segment.sequence.ids[0] == victim[0]

    async with running(MODEL, fail_rows(failure, fails)) as loop:
        heard = await hear(loop.submit([(victim, SCORED), (other, SCORED)]))
    assert heard.ends[0].reason == "LOGITS_NOT_FINITE"
    whole = expected_logprobs(victim[:1], list(victim[1:]), 3, MODEL)
    told = heard.prompt_logprobs[0]
    assert told == whole[: len(told)]
    assert bool(told) == (faulty_step > 1)
    tokens, _ = expected(other, SCORED, MODEL)
    assert heard.logprobs[1] == expected_logprobs(other, tokens, 2, MODEL)
