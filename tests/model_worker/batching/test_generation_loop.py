"""The loop with its thread, driven from an event loop as the servicer does it. A gate makes the moments exact."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from model_worker.batching.generation_loop import GenerationLoop
from model_worker.batching.load import LoadSnapshot
from model_worker.batching.refusals import (
    CapacityExceeded,
    Draining,
    EngineBroken,
    QueueFull,
    RequestFailed,
    TooManyRows,
)
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.engine import RowFailure
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault, Gate, fail_rows, raise_at
from model_worker.sequence import FinishReason, RowParams
from tests.model_worker.generation_support import expected, hear, hear_tokens, idle, ids_of, sampled

MODEL = FakeModel(vocabulary_size=100, context_length=500, kv_capacity_tokens=2000)
LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=16, max_queue=20, growth_tokens=16)
LONG = RowParams(max_new_tokens=400)
PROMPT = ids_of(*range(1, 51))


@asynccontextmanager
async def serving(
    *faults: Fault,
    model: FakeModel = MODEL,
    limits: SchedulerLimits = LIMITS,
    on_broken: Callable[[Exception], None] = lambda _: None,
) -> AsyncIterator[GenerationLoop]:
    loop = GenerationLoop(FakeEngine(model, *faults), limits, on_broken=on_broken)
    loop.start(asyncio.get_running_loop())
    try:
        yield loop
    finally:
        for fault in faults:
            if isinstance(fault, Gate):
                fault.open()
        loop.close()


async def check_empty(loop: GenerationLoop) -> None:
    """Once the last step is published: a reader that is awake anyway hears the end of its row a moment before."""
    await idle(loop)
    load = loop.snapshot()
    assert (load.running, load.waiting, load.queued_prompt_tokens, load.kv_tokens_used) == (0, 0, 0, 0)
    assert load.tokens_per_second == 0.0
    assert loop._batch.arena.free_tokens == load.kv_tokens_total


async def test_concurrent_requests_say_what_each_says_alone() -> None:
    async with serving() as loop:
        rows = [(ids_of(*range(1, 2 + length)), sampled(length, max_new_tokens=5 + 7 * length)) for length in range(12)]
        heard = await asyncio.gather(*(hear(loop.submit([row])) for row in rows))
        for row, one in zip(rows, heard, strict=True):
            assert (one.tokens[0], one.ends[0].reason) == expected(*row, MODEL)
        await check_empty(loop)


async def test_rows_of_one_request_share_its_prompt_and_differ_by_seed() -> None:
    async with serving() as loop:
        rows = [(PROMPT, sampled(seed, max_new_tokens=30)) for seed in range(4)]
        heard = await hear(loop.submit(rows))
        for index, row in enumerate(rows):
            assert heard.tokens[index] == expected(*row, MODEL)[0]
        assert [heard.ends[index].usage.cached_prompt_tokens for index in range(4)] == [0, 49, 49, 49]


async def test_stop_row_frees_its_kv_within_two_steps_and_the_others_go_on_undisturbed() -> None:
    gate = Gate()
    async with serving(gate) as loop:
        rows = [(ids_of(1, 2, value), LONG) for value in range(4)]
        stream = loop.submit(rows)
        gate.allow(5)
        await asyncio.to_thread(gate.wait_until_reached)
        before = loop.snapshot()
        for row in (2, 2, 7, -1):
            loop.stop_row(stream, row)
        gate.allow(2)
        await asyncio.to_thread(gate.wait_until_reached)
        after = loop.snapshot()
        assert after.step - before.step <= 2
        assert (before.running, after.running) == (4, 3)
        assert after.kv_tokens_used < before.kv_tokens_used
        gate.open()
        heard = await hear(stream)
        assert heard.ends[2].reason is FinishReason.STOP_STRING
        assert heard.ends[2].usage.completion_tokens == len(heard.tokens[2])
        for row in (0, 1, 3):
            assert heard.tokens[row] == expected(*rows[row], MODEL)[0]
        loop.stop_row(stream, 0)
        await check_empty(loop)


@pytest.mark.parametrize(("phase", "steps"), [("prefill", 0), ("prefill", 2), ("decoding", 10)])
async def test_a_cancelled_row_frees_everything_within_one_step(phase: str, steps: int) -> None:
    gate = Gate()
    async with serving(gate) as loop:
        stream = loop.submit([(PROMPT, LONG)])
        gate.allow(steps)
        await asyncio.to_thread(gate.wait_until_reached)
        assert loop.snapshot().kv_tokens_used > 0
        loop.cancel(stream)
        loop.cancel(stream)
        gate.allow(1)
        await idle(loop)
        assert loop.snapshot().step == steps + 1
        await check_empty(loop)
        with pytest.raises(RequestFailed):
            await anext(stream)


async def test_a_cancelled_row_that_still_waits_leaves_the_queue() -> None:
    gate = Gate()
    async with serving(gate) as loop:
        running = [loop.submit([(PROMPT, LONG)]) for _ in range(4)]
        queued = loop.submit([(PROMPT, LONG)])
        gate.allow(20)
        await asyncio.to_thread(gate.wait_until_reached)
        assert loop.snapshot()[:3] == (4, 1, 1), "what the others have computed is copied"
        loop.cancel(queued)
        gate.allow(1)
        await asyncio.to_thread(gate.wait_until_reached)
        assert loop.snapshot()[:3] == (4, 0, 0)
        for stream in running:
            loop.cancel(stream)
        gate.allow(1)
        await idle(loop)
        await check_empty(loop)


async def test_after_200_cancels_at_once_the_next_request_is_served() -> None:
    gate = Gate()
    async with serving(gate, limits=SchedulerLimits(max_queue=300)) as loop:
        streams = [loop.submit([(PROMPT, LONG)]) for _ in range(200)]
        gate.allow(3)
        await asyncio.to_thread(gate.wait_until_reached)
        for stream in streams:
            loop.cancel(stream)
        nxt = loop.submit([(ids_of(1, 2, 3), RowParams(max_new_tokens=5))])
        gate.allow(6)  # the one that was under way, then one per token
        assert (await hear(nxt)).tokens[0] == expected(ids_of(1, 2, 3), RowParams(max_new_tokens=5), MODEL)[0]
        await check_empty(loop)


async def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room() -> None:
    gate = Gate()
    limits = SchedulerLimits(max_num_seqs=2, max_num_batched_tokens=16, max_queue=3)
    async with serving(gate, limits=limits) as loop:
        streams = [loop.submit([(PROMPT, LONG)] * 2) for _ in range(2)]
        with pytest.raises(QueueFull) as caught:
            loop.submit([(PROMPT, LONG)] * 2)
        assert (caught.value.live_rows, caught.value.max_rows, caught.value.reason) == (4, 5, "QUEUE_FULL")
        streams.append(loop.submit([(PROMPT, LONG)]))
        loop.cancel(streams[0])
        gate.open()
        heard = await asyncio.gather(*(hear(stream) for stream in streams[1:]))
        assert [len(one.ends) for one in heard] == [2, 1]
        assert len((await hear(loop.submit([(PROMPT, LONG)] * 5))).ends) == 5


async def test_a_row_that_never_fits_is_refused_with_the_capacity() -> None:
    model = FakeModel(context_length=500, kv_capacity_tokens=100)
    async with serving(model=model) as loop:
        with pytest.raises(CapacityExceeded) as caught:
            loop.submit([(PROMPT, RowParams(max_new_tokens=52))])
        assert (caught.value.needed_tokens, caught.value.capacity_tokens) == (101, 100)
        heard = await hear(loop.submit([(PROMPT, RowParams(max_new_tokens=51))]))
        assert len(heard.tokens[0]) == 51


async def test_a_time_limit_runs_from_arrival() -> None:
    now = [100.0]
    gate = Gate()
    loop = GenerationLoop(FakeEngine(MODEL, gate), LIMITS, clock=lambda: now[0])
    loop.start(asyncio.get_running_loop())
    stream = loop.submit([(ids_of(1), RowParams(time_limit_seconds=5.0))])
    gate.allow(3)
    await asyncio.to_thread(gate.wait_until_reached)
    now[0] = 105.0
    gate.open()
    heard = await hear(stream)
    assert heard.ends[0].reason is FinishReason.TIME_LIMIT
    assert len(heard.tokens[0]) == 4
    assert heard.ends[0].timing.total_seconds == 5.0
    loop.close()


async def test_a_failing_row_fails_alone_and_the_worker_goes_on() -> None:
    failure = RowFailure("BAD_NUMBERS", "the logits are not numbers")
    async with serving(fail_rows(failure, lambda _, segment: segment.sequence.ids[0] == 9)) as loop:
        good, bad = await asyncio.gather(
            hear(loop.submit([(ids_of(1, 2), LONG)])), hear(loop.submit([(ids_of(9, 2), LONG), (ids_of(8), LONG)]))
        )
        assert good.tokens[0] == expected(ids_of(1, 2), LONG, MODEL)[0]
        assert bad.ends[0].reason == "BAD_NUMBERS"
        assert bad.tokens[1] == expected(ids_of(8), LONG, MODEL)[0]
        await check_empty(loop)


async def test_a_broken_engine_fails_every_stream_and_is_reported_once() -> None:
    gate, error, broken = Gate(), RuntimeError("device lost"), asyncio.Queue[Exception]()
    async with serving(gate, raise_at(4, error), on_broken=broken.put_nowait) as loop:
        streams = [loop.submit([(ids_of(1, value), LONG)]) for value in range(6)]
        gate.allow(3)
        await asyncio.to_thread(gate.wait_until_reached)
        streams.append(loop.submit([(ids_of(2), LONG)]))  # not even looked at when the engine breaks
        draining = asyncio.ensure_future(loop.drain())
        gate.open()
        for stream in streams:
            with pytest.raises(RequestFailed) as caught:
                await hear(stream)
            assert caught.value.reason == "ENGINE_BROKEN"
        assert await broken.get() is error
        assert broken.empty()
        await draining
        with pytest.raises(EngineBroken):
            loop.submit([(ids_of(1), LONG)])


async def test_draining_ends_when_the_engine_broke_and_the_event_loop_has_not_heard_of_it_yet() -> None:
    gate = Gate()
    async with serving(gate, raise_at(1, RuntimeError("device lost"))) as loop:
        loop.submit([(ids_of(1), LONG)])
        gate.open()
        loop._thread.join()
        async with asyncio.timeout(10):
            await loop.drain()  # directly: in a task of its own it would start after the event loop heard of it


async def test_a_broken_engine_does_not_take_away_what_was_drawn_before() -> None:
    async with serving(raise_at(4, RuntimeError("device lost"))) as loop:
        stream = loop.submit([(ids_of(1), LONG)])
        heard = await hear_tokens(stream, 3)
        assert heard.tokens[0] == expected(ids_of(1), LONG, MODEL)[0][:3]
        with pytest.raises(RequestFailed):
            await anext(stream)


async def test_draining_refuses_what_is_new_and_finishes_what_is_there() -> None:
    gate = Gate()
    async with serving(gate) as loop:
        reading = [asyncio.ensure_future(hear(loop.submit([(PROMPT, LONG)]))) for _ in range(8)]
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(loop.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            loop.submit([(PROMPT, LONG)])
        assert not draining.done()
        gate.open()
        await draining
        await check_empty(loop)
        for heard in await asyncio.gather(*reading):
            assert heard.tokens[0] == expected(PROMPT, LONG, MODEL)[0]


async def test_draining_an_idle_loop_is_done_at_once() -> None:
    async with serving() as loop:
        await loop.drain()


async def test_closing_tells_every_reader_closes_the_engine_and_ends_the_thread() -> None:
    engine = FakeEngine(FakeModel(context_length=1_000_000, kv_capacity_tokens=1_000_000))
    loop = GenerationLoop(engine, LIMITS)
    loop.start(asyncio.get_running_loop())
    streams = [loop.submit([(ids_of(1, value), RowParams(max_new_tokens=900_000))]) for value in range(6)]
    await hear_tokens(streams[0], 1)
    loop.close()
    loop.close()
    assert engine.closed
    assert not loop._thread.is_alive()
    await check_empty(loop)
    for stream in streams:
        with pytest.raises(RequestFailed) as caught:
            await hear(stream)
        assert caught.value.reason == "SHUTTING_DOWN"
    with pytest.raises(Draining):
        loop.submit([(ids_of(1), LONG)])


async def test_closing_leaves_a_step_that_hangs_behind_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    loop = GenerationLoop(FakeEngine(MODEL, gate), LIMITS)
    loop.start(asyncio.get_running_loop())
    loop.submit([(PROMPT, LONG)])
    await asyncio.to_thread(gate.wait_until_reached)
    loop.close(timeout_seconds=0.01)
    assert loop._thread.is_alive()
    assert [record.message for record in caplog.records] == [
        "the engine has not ended its step within 0.01 s: left behind"
    ]
    gate.open()
    loop.close()
    assert not loop._thread.is_alive()


async def test_what_stands_behind_a_message_that_breaks_the_worker_fails_like_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, broken = Gate(), asyncio.Queue[Exception]()
    error = RuntimeError("an arena that does not add up")

    def break_down(_: object) -> None:
        raise error

    async with serving(gate, on_broken=broken.put_nowait) as loop:
        streams = [loop.submit([(PROMPT, LONG)])]
        await asyncio.to_thread(gate.wait_until_reached)
        monkeypatch.setattr(loop._batch, "cancel", break_down)
        loop.cancel(loop.submit([(PROMPT, LONG)]))
        streams.append(loop.submit([(PROMPT, LONG)]))
        gate.open()
        assert await broken.get() is error
        for stream in streams:
            with pytest.raises(RequestFailed) as caught:
                await hear(stream)
            assert caught.value.reason == "ENGINE_BROKEN"


async def test_a_worker_that_breaks_while_it_shuts_down_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, broken, error = Gate(), asyncio.Queue[Exception](), RuntimeError("an arena that does not add up")

    def break_down() -> None:
        raise error

    async with serving(gate, on_broken=broken.put_nowait) as loop:
        monkeypatch.setattr(loop._batch, "forget_all", break_down)
        stream = loop.submit([(PROMPT, LONG)])
        await asyncio.to_thread(gate.wait_until_reached)
        loop.close(timeout_seconds=0)
        gate.open()
        assert await broken.get() is error
        with pytest.raises(RequestFailed) as caught:
            await hear(stream)
        assert caught.value.reason == "SHUTTING_DOWN", "what was said first holds"


async def test_a_request_of_more_rows_than_there_can_ever_be_is_not_told_to_come_back() -> None:
    limits = SchedulerLimits(max_num_seqs=2, max_num_batched_tokens=16, max_queue=3)
    async with serving(limits=limits) as loop:
        with pytest.raises(TooManyRows, match=r"6 outputs in one request, .* at most 5 at once"):
            loop.submit([(PROMPT, LONG)] * 6)


async def test_a_loop_that_was_never_started_closes_its_engine() -> None:
    engine = FakeEngine(MODEL)
    GenerationLoop(engine, LIMITS).close()
    assert engine.closed


async def test_the_load_tells_what_runs_what_waits_and_when_the_step_began() -> None:
    gate = Gate()
    loop = GenerationLoop(FakeEngine(MODEL, gate), LIMITS, clock=lambda: 7.0)
    loop.start(asyncio.get_running_loop())
    at_rest = loop.snapshot()
    assert at_rest == LoadSnapshot(kv_tokens_total=2000)
    stream = loop.submit([(PROMPT, LONG)] * 3)
    await asyncio.to_thread(gate.wait_until_reached)
    assert loop.snapshot() == LoadSnapshot(1, 2, 52, 66, 2000, 0.0, 0, 7.0)
    watching = asyncio.ensure_future(loop.load_changed(loop.snapshot()))
    await asyncio.sleep(0)
    assert not watching.done()
    gate.allow(1)
    assert (await watching).step == 1
    loop.cancel(stream)
    gate.open()
    await idle(loop)
    assert loop.snapshot().step_started_at == 7.0, "the last step's, when there is no current one"
    loop.close()


async def test_one_wake_up_serves_all_streams_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, event_loop = Gate(), asyncio.get_running_loop()
    async with serving(gate, limits=SchedulerLimits()) as loop:
        wake_ups = 0
        plain = event_loop.call_soon_threadsafe

        def counted(callback: Callable[..., object], *arguments: object) -> asyncio.Handle:
            nonlocal wake_ups
            wake_ups += getattr(callback, "__name__", "") == "_wake_all"
            return plain(callback, *arguments)

        monkeypatch.setattr(event_loop, "call_soon_threadsafe", counted)
        streams = [loop.submit([(ids_of(1, value), RowParams(max_new_tokens=10))]) for value in range(16)]
        gate.open()
        heard = await asyncio.gather(*(hear(stream) for stream in streams))
        assert all(len(one.tokens[0]) == 10 for one in heard)
        assert wake_ups <= loop.snapshot().step


@pytest.mark.slow
async def test_a_slow_reader_of_200_000_tokens_gets_them_merged_and_exact_in_bounded_memory() -> None:
    count = 50_000  # in each of four rows
    model = FakeModel(vocabulary_size=1000, context_length=count + 100, kv_capacity_tokens=5 * count)
    async with serving(model=model) as loop:
        prompts = [[1, 2, value] for value in range(4)]
        slow = loop.submit([(ids_of(*prompt), RowParams(max_new_tokens=count)) for prompt in prompts])
        heard = await hear_tokens(slow, 1)
        await idle(loop)
        held_bytes = sum(sys.getsizeof(row.tokens) for row in slow._rows)
        assert held_bytes < 1.2 * 4 * 4 * count, "4 bytes a token, whether read or not"
        events = await anext(slow)
        assert len(events) == 8, "everything unread of a row is one event, then its end"
        heard.take(events)
        for row, prompt in enumerate(prompts):
            assert heard.tokens[row] == long_expectation(prompt, count, model.vocabulary_size)
        with pytest.raises(StopAsyncIteration):
            await anext(slow)


def long_expectation(prompt: list[int], count: int, vocabulary_size: int) -> list[int]:
    """What `expected` says, with a running sum: the plain rule sums all ids for every token."""
    ids, total = list(prompt), sum(prompt)
    for _ in range(count):
        ids.append((total + ids[len(ids) // 2] + len(ids)) % vocabulary_size)
        total += ids[-1]
    return ids[len(prompt) :]
