"""The generation thread's way to the event loop: one wake-up per step, for all streams and all who watch the load.

Why no lock: the generation thread first adds what is new and then looks whether a wake-up is under way; the event loop
first marks it as done and then takes what is there. Whichever comes first, nothing is left behind without a wake-up;
at worst there is one too many. Adding to a set and popping from it are indivisible operations of the interpreter.
The set bounds what collects while the event loop is busy: each stream stands in it once.
"""

from __future__ import annotations

import asyncio
import collections.abc

from model_worker.load import LoadSnapshot
from model_worker.token_stream import TokenStream


class Publisher:
    """`publish`, `show` and `call` belong to the generation thread, all else to the event loop."""

    def __init__(self, event_loop: asyncio.AbstractEventLoop, load: LoadSnapshot) -> None:
        self._event_loop = event_loop
        self._load = load
        self._unwoken: set[TokenStream] = set()
        self._under_way = False
        self._watchers: list[asyncio.Future[None]] = []  # event loop

    def show(self, load: LoadSnapshot) -> None:
        """Replace the load without waking anyone."""
        self._load = load

    def publish(self, streams: collections.abc.Iterable[TokenStream], load: LoadSnapshot) -> None:
        """Wake the readers of `streams` and those who wait for another load."""
        self._load = load
        self._unwoken.update(streams)
        if not self._under_way:
            self._under_way = True
            self._event_loop.call_soon_threadsafe(self._wake_all)

    def call(self, action: collections.abc.Callable[[], None]) -> None:
        """Have `action` run on the event loop, before anything that is published afterwards is read."""
        self._event_loop.call_soon_threadsafe(action)

    @property
    def load(self) -> LoadSnapshot:
        """The latest load."""
        return self._load

    async def changed(self, seen: LoadSnapshot) -> LoadSnapshot:
        """The latest load that is not `seen`; waits for it."""
        while self._load is seen:
            watcher = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            try:
                await watcher
            finally:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)
        return self._load

    def _wake_all(self) -> None:
        self._under_way = False
        while self._unwoken:
            self._unwoken.pop().wake()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)
