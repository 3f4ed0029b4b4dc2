from __future__ import annotations

import asyncio
import gc
from array import array
from typing import TYPE_CHECKING

import pytest

from gateway.generation import Event, FinishReason, OutputDelta, OutputFinished, Sampling, Started, Timing, Usage
from gateway.mailbox import MAX_DELTA_LENGTH, Mailbox, merged
from gateway.responses import event_fields
from gateway.text.token_logprob import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

STARTED = Started("tiny", Sampling(), (), ())


def told(number: int, alternatives: int = 0) -> TokenLogprob:
    return TokenLogprob(number, -1.5, 3, (TokenLogprob(7, -0.5, 1, (), b" seven"),) * alternatives, b" text")


def delta(index: int, text: str, *ids: int) -> OutputDelta:
    return OutputDelta(index, text, array("i", ids))


def finished(index: int) -> OutputFinished:
    return OutputFinished(index, FinishReason.MAX_NEW_TOKENS, None, None, 0, Usage(), Timing())


async def test_unread_deltas_of_an_output_are_one_in_the_place_of_the_first() -> None:
    mailbox = Mailbox()
    for event in (STARTED, delta(0, "a", 1), delta(1, "x"), delta(0, "b", 2, 3), finished(1), delta(0, "", 4)):
        mailbox.put(event)
    assert await mailbox.take() == [STARTED, delta(0, "ab", 1, 2, 3, 4), delta(1, "x"), finished(1)]


async def test_what_no_message_can_hold_is_handed_out_in_parts() -> None:
    mailbox = Mailbox()
    text, ids = "é" * (2 * MAX_DELTA_LENGTH + 1), range(MAX_DELTA_LENGTH + 1)
    for event in (delta(0, text[:7], *ids[:9]), delta(0, text[7:], *ids[9:]), finished(0)):
        mailbox.put(event)
    *parts, end = await mailbox.take()
    assert [len(part.text) for part in parts] == [MAX_DELTA_LENGTH, MAX_DELTA_LENGTH, 1]
    assert "".join(part.text for part in parts) == text
    assert [token_id for part in parts for token_id in part.token_ids] == list(ids)
    assert end == finished(0)


async def test_ids_and_their_log_probabilities_stay_together_in_messages_that_any_client_takes() -> None:
    mailbox = Mailbox()
    mailbox.put(OutputDelta(0, "", array("i"), prompt_logprobs=[told(number, 20) for number in range(1, 4000)]))
    for number in range(2000):
        mailbox.put(OutputDelta(0, "é" * 50, array("i", [number]), [told(number, 20)]))
    parts = await mailbox.take()
    assert len(parts) > 2
    sizes = [event_fields(part)["delta"].ByteSize() for part in parts]
    assert max(sizes) < 2 * 2**20
    for part in parts:
        assert [logprob.token_id for logprob in part.logprobs] == list(part.token_ids)
    assert [token_id for part in parts for token_id in part.token_ids] == list(range(2000))
    assert [one.token_id for part in parts for one in part.prompt_logprobs] == list(range(1, 4000))
    assert "".join(part.text for part in parts) == "é" * 100_000


async def test_log_probabilities_come_without_ids_where_those_are_not_asked_for() -> None:
    mailbox = Mailbox()
    for number in range(3):
        mailbox.put(OutputDelta(0, "a", array("i"), [told(number)]))
    assert await mailbox.take() == [OutputDelta(0, "aaa", array("i"), [told(0), told(1), told(2)], ())]


async def test_what_was_read_is_not_merged_into() -> None:
    mailbox = Mailbox()
    mailbox.put(delta(0, "a", 1))
    first = await mailbox.take()
    mailbox.put(delta(0, "b", 2))
    assert (first, await mailbox.take()) == ([delta(0, "a", 1)], [delta(0, "b", 2)])


async def test_a_reader_is_woken_by_an_event_and_by_the_end() -> None:
    mailbox = Mailbox()
    reading = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put(STARTED)
    assert await reading == [STARTED]
    reading = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.close()
    assert await reading == []
    assert await mailbox.take() == []


async def test_what_was_put_before_the_end_is_still_read() -> None:
    mailbox = Mailbox()
    mailbox.put(STARTED)
    mailbox.close()
    assert [await mailbox.take(), await mailbox.take()] == [[STARTED], []]


async def test_a_busy_reader_finds_what_came_meanwhile_as_one() -> None:
    all_said = asyncio.Event()

    async def talk() -> AsyncGenerator[Event, None]:
        yield STARTED
        for number in range(1000):
            yield delta(0, "ab", number)
        all_said.set()

    events = merged(talk())
    assert await anext(events) == STARTED
    await all_said.wait()
    rest = [event async for event in events]
    texts = [event.text for event in rest if isinstance(event, OutputDelta)]
    assert "".join(texts) == "ab" * 1000
    assert len(texts) <= 2


async def test_a_failure_is_raised_after_what_came_before_it() -> None:
    async def fail() -> AsyncGenerator[Event, None]:
        yield STARTED
        raise KeyError

    events = merged(fail())
    assert await anext(events) == STARTED
    with pytest.raises(KeyError):
        await anext(events)


async def test_closing_ends_the_source_before_it_returns() -> None:
    is_closed = False

    async def talk() -> AsyncGenerator[Event, None]:
        nonlocal is_closed
        try:
            yield STARTED
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            is_closed = True

    events = merged(talk())
    await anext(events)
    await events.aclose()
    assert is_closed


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported_as_lost() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    failed = asyncio.Event()

    async def fail() -> AsyncGenerator[Event, None]:
        yield STARTED
        failed.set()
        raise KeyError

    events = merged(fail())
    await anext(events)
    await failed.wait()
    await asyncio.sleep(0)
    await events.aclose()
    del events
    gc.collect()
    assert reported == []
