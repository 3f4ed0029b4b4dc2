"""The only way into the generation thread: messages, in order, from the event loop.

Bounded by what the front lets in: one Submit per admitted request, one StopRow per row, one Cancel per stream.
"""

from __future__ import annotations

import collections.abc
import queue
from array import array
from dataclasses import dataclass
from typing import TypeAlias

from model_worker.batching.token_stream import TokenStream
from model_worker.sequence import RowParams

SubmittedRow: TypeAlias = "tuple[array[int], RowParams]"


@dataclass(frozen=True, slots=True)
class Submit:
    """Generate these rows into `stream`."""

    stream: TokenStream
    rows: collections.abc.Sequence[SubmittedRow]
    arrived_at: float  # by the worker's clock


@dataclass(frozen=True, slots=True)
class StopRow:
    """End one row with STOP_STRING."""

    stream: TokenStream
    row: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a request."""

    stream: TokenStream


@dataclass(frozen=True, slots=True)
class Close:
    """End the thread; nothing is sent after it."""


Message: TypeAlias = Submit | StopRow | Cancel | Close


class Inbox:
    """A queue with one reader."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def put(self, message: Message) -> None:
        """Add a message and wake the reader. Never blocks."""
        self._messages.put(message)

    def take(self, *, wait: bool) -> list[Message]:
        """Everything that is there; with `wait`, blocked until there is something."""
        messages = [self._messages.get()] if wait else []
        while not self._messages.empty():  # the only reader: what is there stays there
            messages.append(self._messages.get_nowait())
        return messages
