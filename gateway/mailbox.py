"""Between a generation and its reader: what has not been read yet is merged.

A slow reader gets fewer, larger messages, never a growing queue: at most one delta per output is held, and its text is
bounded by the output's own token limit. The generation goes on meanwhile, so that a stop string is seen in time.
"""

from __future__ import annotations

import asyncio
import io
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.generation import Event, OutputDelta


class UnreadDelta:
    """The deltas of one output since the last read, as one. Appending is linear, however much is unread."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._text = io.StringIO()
        self._token_ids = array("i")

    def add(self, delta: OutputDelta) -> None:
        """Append `delta`."""
        self._text.write(delta.text)
        self._token_ids.extend(delta.token_ids)

    def merged(self) -> OutputDelta:
        """All of them as one delta."""
        return OutputDelta(self._index, self._text.getvalue(), self._token_ids)


class Mailbox:
    """Events in order, deltas merged per output; owned by the event loop."""

    def __init__(self) -> None:
        self._unread: list[Event | UnreadDelta] = []
        self._deltas: dict[int, UnreadDelta] = {}
        self._closed = False
        self._arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add one event; a delta joins the unread one of the same output."""
        if isinstance(event, OutputDelta):
            unread = self._deltas.get(event.index)
            if unread is None:
                unread = self._deltas[event.index] = UnreadDelta(event.index)
                self._unread.append(unread)
            unread.add(event)
        else:
            self._unread.append(event)
        self._arrived.set()

    def close(self) -> None:
        """Say that nothing more will be put."""
        self._closed = True
        self._arrived.set()

    async def take(self) -> list[Event]:
        """Everything unread, as soon as there is something; empty once closed and read."""
        if not self._unread and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        unread, self._unread = self._unread, []
        self._deltas.clear()
        return [item.merged() if isinstance(item, UnreadDelta) else item for item in unread]


async def merged(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events, read ahead and merged while the reader of this generator is busy.

    Closing this generator cancels `events` and waits until it has cleaned up. An exception of `events` is raised
    after what came before it was read.
    """
    mailbox = Mailbox()
    reading = asyncio.create_task(_read_ahead(events, mailbox))
    try:
        while unread := await mailbox.take():
            for event in unread:
                yield event
        await reading
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _read_ahead(events: AsyncGenerator[Event, None], mailbox: Mailbox) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                mailbox.put(event)
    finally:
        mailbox.close()
