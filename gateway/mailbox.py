"""Between a generation and its reader: what has not been read yet is merged.

A slow reader gets fewer, larger messages, never a growing queue: what is unread of an output is bounded by its own
token limit, and leaves in deltas that fit into any client's default message limit. The generation goes on meanwhile, so
that a stop string is seen in time.
"""

from __future__ import annotations

import asyncio
import io
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.generation import Event, OutputDelta

# Characters, and ids, of one delta at most: a message stays below 1 MiB, where gRPC's default limit is 4 MiB.
MAX_DELTA_LENGTH = 2**17


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

    def merged(self) -> list[OutputDelta]:
        """All of them as one delta, or as few as their length allows."""
        text, token_ids = self._text.getvalue(), self._token_ids
        starts = range(0, max(len(text), len(token_ids), 1), MAX_DELTA_LENGTH)
        ends = [start + MAX_DELTA_LENGTH for start in starts]
        return [
            OutputDelta(self._index, text[start:end], token_ids[start:end])
            for start, end in zip(starts, ends, strict=True)
        ]


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
        return [event for item in unread for event in (item.merged() if isinstance(item, UnreadDelta) else [item])]


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
