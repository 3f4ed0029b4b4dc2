"""The stream that carries all calls to a worker, against a stream that the test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.deadline import Deadline
from gateway.fleet.worker_session import TELL_READ_AFTER, WorkerSession
from rpc.errors import ServiceError
from rpc.token_tensors import pack_ids
from tokenmill.v1.worker_pb2 import CallEnd, CallResponse, GenerateManyResponse, RowEvent, Start


class Stream:
    """A worker's side of one stream; also the stub that opens it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.said: asyncio.Queue[GenerateManyResponse | None] = asyncio.Queue()
        self.is_cancelled = False

    def GenerateMany(self) -> Stream:
        return self

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> GenerateManyResponse:
        response = await self.said.get()
        if response is None:
            raise StopAsyncIteration
        return response

    async def write(self, request: Any) -> None:
        self.sent.append(request)

    def cancel(self) -> None:
        self.is_cancelled = True
        self.said.put_nowait(None)

    def say(self, *calls: CallResponse) -> None:
        self.said.put_nowait(GenerateManyResponse(calls=calls))


def tokens(call: int, *ids: int) -> CallResponse:
    event = RowEvent(row=0, tokens=RowEvent.Tokens(ids=pack_ids(ids)))
    return CallResponse(call=call, events=[event])


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def stream():
    return Stream()


async def begun(stream: Stream, count: int) -> tuple[WorkerSession, list[Any]]:
    session = WorkerSession(stream, lambda: None)
    calls = [session.begin(Start(model=str(number)), Deadline(None)) for number in range(count)]
    await turns()
    return session, calls


async def listen(call: Any, order: list[int]) -> None:
    """Note the call's number for each event that it hears."""
    async for events in call.events():
        order.extend(call.number for _ in events)


async def test_calls_that_begin_together_leave_in_one_message(stream: Stream) -> None:
    session, _ = await begun(stream, 16)
    [request] = stream.sent
    assert [one.start.start.model for one in request.calls] == [str(number) for number in range(16)]
    await session.close()


async def test_the_first_words_of_a_call_go_before_those_of_calls_that_have_begun(stream: Stream) -> None:
    session, calls = await begun(stream, 3)
    order: list[int] = []
    readers = [asyncio.create_task(listen(call, order)) for call in calls]
    stream.say(tokens(1, 10), tokens(2, 20))
    await turns()
    assert order == [1, 2]
    stream.say(tokens(1, 11), tokens(2, 21), tokens(3, 30))
    await turns()
    assert order == [1, 2, 3]
    stream.say(tokens(1, 12), CallResponse(call=1, end=CallEnd()))
    stream.say(CallResponse(call=2, end=CallEnd()), CallResponse(call=3, end=CallEnd()))
    await asyncio.gather(*readers)
    assert sorted(order[3:]) == [1, 1, 2]  # nothing was lost
    await session.close()


async def test_each_call_hears_its_own_and_its_end(stream: Stream) -> None:
    session, calls = await begun(stream, 2)
    stream.say(tokens(1, 10), tokens(2, 20))
    stream.say(tokens(2, 21), CallResponse(call=1, end=CallEnd()))
    await turns()
    first = [event async for group in calls[0].events() for event in group]
    assert [list(event.ids) for event in first] == [[10]]
    calls[0].end()
    assert session.calls == 1
    await turns()
    assert not any(one.cancel for request in stream.sent for one in request.calls), "it had ended"
    calls[1].end()
    await turns()
    assert [one.call for request in stream.sent for one in request.calls if one.cancel] == [2]
    await session.close()


async def test_the_worker_is_told_what_has_been_read(stream: Stream) -> None:
    session, _ = await begun(stream, 1)
    for number in range(2 * TELL_READ_AFTER):
        stream.say(tokens(1, number))
        await turns()
    assert [request.responses_read for request in stream.sent] == [0, TELL_READ_AFTER, 2 * TELL_READ_AFTER]
    await session.close()


async def test_when_the_stream_ends_every_call_fails_after_what_it_heard_and_no_task_is_left(stream: Stream) -> None:
    session, calls = await begun(stream, 2)
    stream.say(tokens(1, 10))
    stream.said.put_nowait(None)
    await turns()
    assert session.is_over
    events = calls[0].events()
    assert list((await anext(events))[0].ids) == [10]
    for following in (events, calls[1].events()):
        with pytest.raises(ServiceError) as caught:
            await anext(following)
        assert caught.value.reason == "WORKER_LOST"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_call_whose_time_is_over_ends_by_itself(stream: Stream) -> None:
    session = WorkerSession(stream, lambda: None)
    call = session.begin(Start(), Deadline(0.0))
    with pytest.raises(ServiceError) as caught:
        await anext(call.events())
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    call.end()
    await session.close()
    assert stream.is_cancelled
