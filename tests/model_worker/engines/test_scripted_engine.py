"""A scripted engine does what its script says, through the loop that drives any engine."""

from __future__ import annotations

import asyncio
import time
from array import array
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from model_worker.batching.generation_loop import GenerationLoop
from model_worker.batching.refusals import RequestFailed
from model_worker.batching.row_events import FailedEvent, FinishedEvent
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.engine import TokenLogprob
from model_worker.engines import scripted_engine as module
from model_worker.engines.script import FaultRule, Script
from model_worker.engines.scripted_engine import scripted_engine
from model_worker.sequence import FinishReason, RowParams
from tests.model_worker.generation_support import LN2, Heard, expected, hear, sampled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VOCABULARY = 50
SAID = (11, 12, 13)


@asynccontextmanager
async def generating(script: Script) -> AsyncIterator[GenerationLoop]:
    limits = SchedulerLimits(max_num_seqs=8, max_num_batched_tokens=16, max_queue=16)
    loop = GenerationLoop(scripted_engine(script, VOCABULARY), limits)
    loop.start(asyncio.get_running_loop())
    try:
        yield loop
    finally:
        await asyncio.to_thread(loop.close)


async def said(loop: GenerationLoop, *prompts: list[int], **params: Any) -> Heard:
    given = RowParams(**({"max_new_tokens": 5} | params))
    return await hear(loop.submit([(array("i", prompt), given) for prompt in prompts]))


async def test_the_ids_are_said_over_and_over_whatever_is_asked() -> None:
    async with generating(Script(ids=SAID)) as loop:
        heard = await said(loop, [1, 2], list(range(40)))
        assert dict(heard.tokens) == {0: [11, 12, 13, 11, 12], 1: [11, 12, 13, 11, 12]}
        (sampling,) = (await hear(loop.submit([(array("i", [1]), sampled(7, max_new_tokens=4))]))).tokens.values()
        assert sampling == [11, 12, 13, 11]


async def test_what_another_worker_began_goes_on_where_it_was() -> None:
    async with generating(Script(ids=SAID)) as loop:
        heard = await said(loop, [1, 2, 11, 12], generated_prefix=2)
        assert heard.tokens[0] == [13, 11, 12]


async def test_log_probabilities_say_that_what_is_said_is_likeliest() -> None:
    async with generating(Script(ids=SAID)) as loop:
        heard = await said(loop, [1, 2, 3], logprobs=1, prompt_logprobs=0, max_new_tokens=1)
        assert heard.prompt_logprobs[0] == [TokenLogprob(2, -LN2, 1), TokenLogprob(3, -LN2, 1)]
        assert heard.logprobs[0] == [TokenLogprob(11, -LN2, 1, (TokenLogprob(11, -LN2, 1),))]


async def test_without_ids_it_is_the_fake_engine() -> None:
    script = Script()
    async with generating(script) as loop:
        tokens, _ = expected(array("i", [1, 2]), RowParams(max_new_tokens=5), loop._engine._model)
        assert (await said(loop, [1, 2])).tokens[0] == tokens


@pytest.mark.parametrize("ids", [SAID, ()])
async def test_an_output_ends_when_the_script_ends_it_but_not_before_it_may(ids: tuple[int, ...]) -> None:
    async with generating(Script(ids=ids, eos_token_id=49, eos_after=3)) as loop:
        for least, tokens in ((0, 4), (6, 7)):
            heard = await said(loop, [1, 2], max_new_tokens=20, min_new_tokens=least)
            end = heard.ends[0]
            assert isinstance(end, FinishedEvent)
            assert (end.reason, len(heard.tokens[0])) == (FinishReason.END_OF_SEQUENCE, tokens)
            assert heard.tokens[0][-1] == 49


async def test_a_failing_row_fails_alone_and_where_it_is_told_to() -> None:
    fault = FaultRule("fail_row", prompt_has=42, after_tokens=2)
    async with generating(Script(ids=SAID, faults=(fault,))) as loop:
        heard = await said(loop, [1, 2], [1, 42])
        assert dict(heard.tokens) == {0: [11, 12, 13, 11, 12], 1: [11, 12]}
        end = heard.ends[1]
        assert isinstance(end, FailedEvent)
        assert end.reason == "SCRIPTED_FAILURE"


async def test_running_out_of_memory_once_is_survived_and_at_every_try_fails_the_row() -> None:
    faults = (FaultRule("out_of_memory", at_step=1), FaultRule("out_of_memory", prompt_has=42))
    async with generating(Script(ids=SAID, faults=faults)) as loop:
        heard = await said(loop, [1, 2, 3, 4], [1, 42])
        assert heard.tokens[0] == [11, 12, 13, 11, 12]
        end = heard.ends[1]
        assert isinstance(end, FailedEvent)
        assert end.reason == "OUT_OF_MEMORY"


async def test_a_break_fails_everything() -> None:
    async with generating(Script(ids=SAID, faults=(FaultRule("break", at_step=2),))) as loop:
        with pytest.raises(RequestFailed, match="the engine of this worker failed"):
            await said(loop, [1, 2])


async def test_steps_tokens_and_stalls_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    stall = FaultRule("stall", prompt_has=2, after_tokens=1, seconds=30)
    async with generating(Script(ids=SAID, seconds_per_step=1.0, seconds_per_token=0.5, faults=(stall,))) as loop:
        await said(loop, [*range(20)], max_new_tokens=3)
    assert slept == [1 + 16 / 2, 1 + 4 / 2, 30, 1.5, 1.5]


async def test_an_exit_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(module.os, "_exit", codes.append)
    async with generating(Script(ids=SAID, faults=(FaultRule("exit", at_step=2),))) as loop:
        await said(loop, [1, 2])
    assert codes == [1]
