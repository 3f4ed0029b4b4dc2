"""Runs encoding and decoding off the event loop, on as many threads as there are cores, behind a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tokenizer_service.errors import EncodeQueueFull

_Result = TypeVar("_Result")

# The slowest work, a Struct turned into JSON values, takes a microsecond or two for each byte.
_SMALL = 8192


class WorkPool:
    """A few threads, used from one event loop. Work waits on the loop, where it can still be cancelled."""

    def __init__(self, threads: int, *, max_waiting: int = 64) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
        self._free = asyncio.Semaphore(threads)
        self._waiting = 0
        self._max_waiting = max_waiting

    @property
    def waiting(self) -> int:
        """How much waits for a thread."""
        return self._waiting

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Return what `work` returns. Errors: EncodeQueueFull, and those of `work`."""
        if self._free.locked() and self._waiting >= self._max_waiting:
            raise EncodeQueueFull("too many texts wait to be tokenized")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        running = asyncio.get_running_loop().run_in_executor(self._executor, work)
        running.add_done_callback(lambda _: self._free.release())
        # A thread cannot be stopped: when the caller leaves, its place stays taken until the work has ended.
        return await asyncio.shield(running)

    async def run_if_large(self, size: int, work: Callable[[], _Result]) -> _Result:
        """As `run`; but work on so few bytes, or tokens, is done at once, where it keeps nobody waiting."""
        return work() if size <= _SMALL else await self.run(work)

    async def close(self) -> None:
        """Wait for what runs (milliseconds) and end the threads."""
        for _ in range(self._threads):
            await self._free.acquire()
        self._executor.shutdown()
