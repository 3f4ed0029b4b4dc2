"""Run a service in this process on a free port, as `python -m <service>` would run it in its own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rpc.lifecycle import Server
from rpc.running_calls import RunningCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rpc.running_calls import RunningCall
    from rpc.service import Service
    from rpc.settings import ServiceSettings


@asynccontextmanager
async def serving(service: Service, settings: ServiceSettings) -> AsyncIterator[int]:
    """The port of a server of `service` that is ready; stopped in order at the end.

    Give settings with port 0 and, unless draining is what is tested, `drain_seconds=0`.
    Errors: what the service's start fails with.
    """
    async with ready(service, settings) as server:
        yield server.port


@asynccontextmanager
async def ready(service: Service, settings: ServiceSettings) -> AsyncIterator[RunningServer]:
    """As `serving`, for tests that look at the server itself."""
    async with listening(service, settings) as server:
        await _reached(server.ready, server)
        yield server


class ObservedCalls(RunningCalls):
    """The RPCs of a server, for tests that wait until so many run."""

    def __init__(self, calls: RunningCalls) -> None:
        super().__init__(calls.metrics, calls.tracer)
        self._changed = asyncio.Event()
        self.begun = 0  # calls that do work

    def add(self, call: RunningCall) -> None:
        super().add(call)
        self.begun += call.is_work
        self._changed.set()

    def discard(self, call: RunningCall) -> None:
        super().discard(call)
        self._changed.set()

    @property
    def working(self) -> set[asyncio.Future[object]]:
        """The tasks of those that do work."""
        return {call.task for call in self._calls if call.is_work}

    async def are(self, count: int) -> None:
        """Return once `count` calls do work."""
        while len(self.working) != count:
            self._changed.clear()
            await self._changed.wait()


class RunningServer(Server):
    """A server whose whole life is the task `life`; `calls` are the RPCs it is handling."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        super().__init__(service, settings)
        self.calls = self._interceptor.running = ObservedCalls(self._interceptor.running)
        self.life = asyncio.create_task(self.run())


@asynccontextmanager
async def listening(service: Service, settings: ServiceSettings) -> AsyncIterator[RunningServer]:
    """A server of `service` as soon as it listens, which is before it has loaded; stopped in order at the end."""
    server = RunningServer(service, settings)
    try:
        await _reached(server.listening, server)
        yield server
    finally:
        server.stop()
        await asyncio.wait({server.life})
    await server.life


async def _reached(event: asyncio.Event, server: RunningServer) -> None:
    reached = asyncio.create_task(event.wait())
    await asyncio.wait({reached, server.life}, return_when=asyncio.FIRST_COMPLETED)
    if not event.is_set():
        reached.cancel()
        raise server.life.exception() or AssertionError("the server stopped before it was ready")
