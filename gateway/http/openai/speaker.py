"""One request's answer in terms of one API: whole, or as a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Protocol

from gateway.generation import Event, OutputFailed, OutputFinished, TotalUsage
from gateway.http.messages import Answer, Events, dumped, event, json_answer

DONE = event(b"[DONE]")


class Speaker(Protocol):
    """Owned by the request; is told all of its events, in order."""

    def chunks(self, heard: Event) -> Iterable[Any]:
        """What an event is in a stream, as JSON."""
        ...

    def collect(self, heard: Event) -> None:
        """Note an event for the whole answer."""
        ...

    def last_chunks(self, total: TotalUsage) -> Iterable[Any]:
        """What follows when every output has ended."""
        ...

    def whole(self, total: TotalUsage) -> Any:
        """The whole answer, as JSON, from what was collected."""
        ...


async def answer(events: AsyncGenerator[Event, None], speaker: Speaker, n: int) -> Answer:
    """Wait for all `events`. Errors: ServiceError."""
    total = TotalUsage(n)
    async with aclosing(events):
        async for heard in events:
            _count(total, heard)
            speaker.collect(heard)
    return json_answer(speaker.whole(total))


def stream(events: AsyncGenerator[Event, None], speaker: Speaker, n: int) -> Events:
    """Tell `events` as they come. Errors, while it is read: ServiceError."""

    async def told() -> AsyncGenerator[bytes, None]:
        total = TotalUsage(n)
        async with aclosing(events):
            async for heard in events:
                _count(total, heard)
                for chunk in speaker.chunks(heard):
                    yield event(dumped(chunk))
        for chunk in speaker.last_chunks(total):
            yield event(dumped(chunk))
        yield DONE

    return Events(told())


def _count(total: TotalUsage, heard: Event) -> None:
    if isinstance(heard, OutputFinished | OutputFailed):
        total.add(heard.index, heard.usage)
