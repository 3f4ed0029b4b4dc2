"""The generation thread's way to the event loop: at most one wake-up per step, for all streams and all load watchers.

A wake-up is sent at once, then none for a millisecond: what comes in that time is collected for the next. A real step
takes longer, so nothing is ever delayed there; an engine of microsecond steps would spend its time on wake-ups.

On busy cores to be woken is to wait for a turn, on our event loop and then on the gateway's: the readers that have not
seen a token yet are the first.

Why no lock: `_quiet` tells the generation thread that someone will still look (a wake-up was sent, or the pause ends).
It adds what is new first and reads `_quiet` then; the event loop clears `_quiet` first and looks for what is new then.
So one of the two always sees the other. Adding to a set and popping from it are indivisible operations of the
interpreter, and the set bounds what collects while the event loop is busy: each stream stands in it once.
"""

from __future__ import annotations

import asyncio
import collections.abc

from model_worker.batching.load import LoadSnapshot
from model_worker.batching.token_stream import TokenStream

_PAUSE_SECONDS = 0.001


class Publisher:
    """`publish`, `show` and `call` belong to the generation thread, all else to the event loop."""

    def __init__(self, event_loop: asyncio.AbstractEventLoop, load: LoadSnapshot) -> None:
        self._event_loop = event_loop
        self._load = load
        self._unwoken: set[TokenStream] = set()
        self._quiet = False
        self._woken_load = load  # event loop: the load at the last wake-up
        self._pause: asyncio.TimerHandle | None = None  # event loop
        self._watchers: list[asyncio.Future[None]] = []  # event loop

    def show(self, load: LoadSnapshot) -> None:
        """Replace the load without waking anyone."""
        self._load = load

    def publish(self, streams: collections.abc.Iterable[TokenStream], load: LoadSnapshot) -> None:
        """Wake the readers of `streams` and those who wait for another load."""
        self._load = load
        self._unwoken.update(streams)
        if not self._quiet:
            self._quiet = True
            self._event_loop.call_soon_threadsafe(self._wake_all)

    def call(self, action: collections.abc.Callable[[], None]) -> None:
        """Have `action` run on the event loop."""
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
        self._woken_load = self._load
        streams = [self._unwoken.pop() for _ in range(len(self._unwoken))]  # it may grow meanwhile, never shrink
        for stream in sorted(streams, key=TokenStream.has_begun):
            stream.wake()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)
        if self._pause is None:
            self._pause = self._event_loop.call_later(_PAUSE_SECONDS, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self._quiet = False
        if self._unwoken or (self._watchers and self._load is not self._woken_load):
            self._quiet = True
            self._wake_all()
