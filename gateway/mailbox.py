"""Between a generation and its reader: what has not been read yet is merged.

A slow reader gets fewer, larger messages, never a growing queue: what is unread of an output is bounded by its own
token limit, and leaves in deltas that fit into any client's default message limit. The generation goes on meanwhile, so
that a stop string is seen in time.
"""

from __future__ import annotations

import asyncio
import io
from array import array
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import zip_longest
from typing import TypeAlias

from gateway.generation import Event, OutputDelta
from gateway.text.token_logprob import TokenLogprob, parts_of

# Characters, and ids, of one delta at most: with them a message stays below 1 MiB, where gRPC's default limit is 4 MiB.
MAX_DELTA_LENGTH = 2**17
# Log-probabilities of one delta at most, those of its tokens and, apart, those of the prompt: below 2 MiB in all.
MAX_LOGPROB_BYTES = 2**19

Tokens: TypeAlias = "tuple[array[int], Sequence[TokenLogprob]]"  # ids, and the log-probabilities of the same tokens


class UnreadDelta:
    """The deltas of one output since the last read, as one. Appending is linear, however much is unread."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._text = io.StringIO()
        self._token_ids = array("i")
        self._logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: list[TokenLogprob] = []

    def add(self, delta: OutputDelta) -> None:
        """Append `delta`."""
        self._text.write(delta.text)
        self._token_ids.extend(delta.token_ids)
        self._logprobs += delta.logprobs
        self._prompt_logprobs += delta.prompt_logprobs

    def merged(self) -> list[OutputDelta]:
        """All of them as one delta, or as few as their length allows; ids and their log-probabilities stay together."""
        text = self._text.getvalue()
        if not (self._logprobs or self._prompt_logprobs) and max(len(text), len(self._token_ids)) <= MAX_DELTA_LENGTH:
            return [OutputDelta(self._index, text, self._token_ids)]  # nearly always
        texts = [text[start : start + MAX_DELTA_LENGTH] for start in range(0, len(text), MAX_DELTA_LENGTH)]
        prompts = parts_of(self._prompt_logprobs, MAX_LOGPROB_BYTES)
        parts = zip_longest(texts, self._token_parts(), prompts)
        return [self._part(text or "", tokens or (array("i"), ()), prompt or ()) for text, tokens, prompt in parts]

    def _token_parts(self) -> Iterator[Tokens]:
        ids = self._token_ids
        if not self._logprobs:
            yield from ((ids[at : at + MAX_DELTA_LENGTH], ()) for at in range(0, len(ids), MAX_DELTA_LENGTH))
        at = 0
        for part in parts_of(self._logprobs, MAX_LOGPROB_BYTES):
            yield ids[at : at + len(part)], part  # no ids where they are not asked for
            at += len(part)

    def _part(self, text: str, tokens: Tokens, prompt_logprobs: Sequence[TokenLogprob]) -> OutputDelta:
        token_ids, logprobs = tokens
        return OutputDelta(self._index, text, token_ids, logprobs, prompt_logprobs)


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
