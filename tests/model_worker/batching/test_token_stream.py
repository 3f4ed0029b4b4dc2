from __future__ import annotations

import asyncio
import threading

import pytest

from model_worker.batching.refusals import RequestFailed
from model_worker.batching.row_events import (
    FailedEvent,
    FinishedEvent,
    PromptLogprobsEvent,
    Timing,
    TokensEvent,
    Usage,
)
from model_worker.batching.token_stream import TokenStream
from model_worker.engine import TokenLogprob
from model_worker.sequence import FinishReason
from tests.model_worker.generation_support import hear, ids_of

FAILED = FailedEvent(0, "BAD_NUMBERS", "the logits are not numbers")


def finished(row: int = 0) -> FinishedEvent:
    timing = Timing(0.0, 0.0, None, 0.0, 0.0)
    return FinishedEvent(row, FinishReason.MAX_NEW_TOKENS, None, Usage(1, 0, 1), timing)


async def test_unread_tokens_of_a_row_come_as_one_event() -> None:
    stream = TokenStream([10])
    for token_id in (1, 2, 3):
        stream.push(0, token_id)
    assert await anext(stream) == [TokensEvent(0, ids_of(1, 2, 3))]
    stream.push(0, 4)
    assert await anext(stream) == [TokensEvent(0, ids_of(4))]


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, -float(token_id), 1)


async def test_unread_tokens_come_with_as_many_log_probabilities() -> None:
    stream = TokenStream([10, 10])
    for token_id in (1, 2, 3):
        stream.push(0, token_id, logprob(token_id))
        stream.push(1, token_id)
    merged, without = await anext(stream)
    assert merged == TokensEvent(0, ids_of(1, 2, 3), (logprob(1), logprob(2), logprob(3)))
    assert without == TokensEvent(1, ids_of(1, 2, 3))
    stream.push(0, 4, logprob(4))
    assert await anext(stream) == [TokensEvent(0, ids_of(4), (logprob(4),))]


async def test_what_is_known_of_a_prompt_comes_before_its_tokens_and_once() -> None:
    stream = TokenStream([10])
    stream.push_prompt(0, 0, [logprob(1), logprob(2)])
    assert await anext(stream) == [PromptLogprobsEvent(0, (logprob(1), logprob(2)))]
    stream.push_prompt(0, 0, [logprob(1)])  # preempted, and computed again in other chunks
    stream.push_prompt(0, 1, [logprob(2), logprob(3)])
    stream.push_prompt(0, 3, [logprob(4)])
    stream.push(0, 5)
    assert await anext(stream) == [PromptLogprobsEvent(0, (logprob(3), logprob(4))), TokensEvent(0, ids_of(5))]
    stream.push_prompt(0, 2, [logprob(3), logprob(4)])  # preempted after a token
    with pytest.raises(AssertionError, match="after a token"):
        stream.push_prompt(0, 2, [logprob(3), logprob(4), logprob(5)])
    stream.end(finished())
    with pytest.raises(AssertionError, match="after the row's end"):
        stream.push_prompt(0, 0, [logprob(1)])


def test_no_log_probability_of_a_prompt_is_left_out() -> None:
    stream = TokenStream([10])
    stream.push_prompt(0, 0, [logprob(1)])
    with pytest.raises(AssertionError, match="is missing"):
        stream.push_prompt(0, 2, [logprob(3)])


async def test_a_row_ends_after_its_tokens_and_the_stream_after_its_rows() -> None:
    stream = TokenStream([10, 10])
    stream.push(0, 1)
    stream.end(finished(0))
    stream.push(1, 2)
    assert await anext(stream) == [TokensEvent(0, ids_of(1)), finished(0), TokensEvent(1, ids_of(2))]
    stream.end(FailedEvent(1, "BAD_NUMBERS", "message"))
    assert await anext(stream) == [FailedEvent(1, "BAD_NUMBERS", "message")]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_waiting_reader_continues_at_the_wake_up_not_before() -> None:
    stream = TokenStream([10])
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.wake()  # for nothing
    await asyncio.sleep(0)
    stream.push(0, 7)
    await asyncio.sleep(0)
    assert not reading.done()
    stream.wake()
    assert await reading == [TokensEvent(0, ids_of(7))]


async def test_a_failed_request_hands_out_what_is_unread_and_then_raises() -> None:
    stream = TokenStream([10, 10])
    stream.push(0, 1)
    stream.end(finished(0))
    stream.push(1, 2)
    stream.fail(RequestFailed("ENGINE_BROKEN", "the engine failed"))
    assert len(await anext(stream)) == 3
    for _ in range(2):
        with pytest.raises(RequestFailed, match="the engine failed") as caught:
            await anext(stream)
        assert caught.value.reason == "ENGINE_BROKEN"


async def test_a_failure_after_every_row_ended_changes_nothing() -> None:
    stream = TokenStream([10])
    stream.end(finished())
    stream.fail(RequestFailed("ENGINE_BROKEN", "the engine failed"))
    assert (await hear(stream)).ends == {0: finished()}


async def test_a_cancelled_stream_drops_what_is_unread_and_releases_a_waiting_reader() -> None:
    stream = TokenStream([10])
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert stream.cancel()
    assert not stream.cancel()
    with pytest.raises(RequestFailed) as caught:
        await reading
    assert caught.value.reason == "CANCELLED"
    stream.push(0, 1)  # the generation thread has not heard of it yet
    stream.end(finished())
    with pytest.raises(RequestFailed):
        await anext(stream)


async def test_a_reader_that_is_cancelled_leaves_the_stream_readable() -> None:
    stream = TokenStream([10])
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stream.push(0, 1)
    assert await anext(stream) == [TokensEvent(0, ids_of(1))]


async def test_only_one_reader_may_wait() -> None:
    stream = TokenStream([10])
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="one reader"):
        await anext(stream)
    reading.cancel()


def test_nothing_comes_after_a_rows_end() -> None:
    for end in (finished(), FAILED):
        stream = TokenStream([10, 10])
        stream.end(end)
        with pytest.raises(AssertionError, match="after the row's end"):
            stream.push(0, 1)
        with pytest.raises(AssertionError, match="second end"):
            stream.end(finished())
        stream.push(1, 1)


def test_nothing_comes_after_a_failure() -> None:
    stream = TokenStream([10])
    stream.fail(RequestFailed("ENGINE_BROKEN", "message"))
    with pytest.raises(AssertionError, match="after the request failed"):
        stream.push(0, 1)
    with pytest.raises(AssertionError, match="after the request failed"):
        stream.end(finished())


async def test_of_two_failures_the_first_is_heard() -> None:
    stream = TokenStream([10])
    stream.fail(RequestFailed("SHUTTING_DOWN", "message"))
    stream.fail(RequestFailed("ENGINE_BROKEN", "message"))
    with pytest.raises(RequestFailed) as caught:
        await anext(stream)
    assert caught.value.reason == "SHUTTING_DOWN"


def test_a_row_takes_no_more_tokens_than_its_limit() -> None:
    stream = TokenStream([2])
    stream.push(0, 1)
    stream.push(0, 1)
    with pytest.raises(AssertionError, match="more tokens"):
        stream.push(0, 1)


def test_a_stop_is_asked_once_for_rows_that_exist() -> None:
    stream = TokenStream([2, 2])
    assert [stream.ask_stop(row) for row in (1, 1, 0, 2, -1)] == [True, False, True, False, False]


async def test_a_reader_beside_a_writing_thread_hears_every_token_once_and_in_order() -> None:
    event_loop, count = asyncio.get_running_loop(), 20_000
    stream = TokenStream([count, count])

    def write() -> None:
        for number in range(100):
            stream.push_prompt(0, number, [logprob(number)])
        for token_id in range(count):
            stream.push(0, token_id, logprob(token_id))
            stream.push(1, -token_id)
            if token_id % 100 == 0:
                event_loop.call_soon_threadsafe(stream.wake)
        stream.end(finished(0))
        stream.end(finished(1))
        event_loop.call_soon_threadsafe(stream.wake)

    writer = threading.Thread(target=write)
    writer.start()
    heard = await hear(stream)
    writer.join()
    assert heard.tokens == {0: list(range(count)), 1: [-token_id for token_id in range(count)]}
    assert [told.token_id for told in heard.logprobs[0]] == list(range(count))
    assert [told.token_id for told in heard.prompt_logprobs[0]] == list(range(100))
    assert set(heard.ends) == {0, 1}
