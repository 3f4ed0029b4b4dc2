"""Admission: a bounded number of requests in flight, a bounded queue before it, refusal at once beyond."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rpc.errors import queue_full, unavailable

RETRY_AFTER_SECONDS = 1.0


class Admission:
    """Owns the count of requests in flight and the queue, first come, first served; event loop only."""

    def __init__(self, max_inflight: int, max_queue: int) -> None:
        self.inflight = 0
        self._max_inflight = max_inflight
        self._max_queue = max_queue
        self._queue: deque[asyncio.Future[None]] = deque()
        self._draining = False

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def drain(self) -> None:
        """Refuse new requests from now on; admitted and queued ones go on."""
        self._draining = True

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold one place while the body runs, after waiting for it if need be.

        Errors: ServiceError (QUEUE_FULL with a retry hint; DRAINING).
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._draining:
            raise unavailable("DRAINING", "the gateway is shutting down; nothing was started")
        if self.inflight < self._max_inflight:
            self.inflight += 1
            return
        if len(self._queue) >= self._max_queue:
            raise queue_full("the gateway's queue", RETRY_AFTER_SECONDS)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # the place was handed to us in the moment we were cancelled
            elif turn in self._queue:  # else it was passed over in that moment
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)  # the place passes on: inflight stays as it is
                return
        self.inflight -= 1
