"""How every service lives.

Bind → load → warm up → ready. SIGTERM: readiness off → short wait → stop accepting → finish within grace → cancel →
exit 0. A second signal exits now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Protocol

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpc import log
from rpc.health import Health
from rpc.interceptor import CallInterceptor
from rpc.settings import ServiceSettings
from rpc.transport import SERVER_OPTIONS

LOGGER = logging.getLogger("tokenmill.lifecycle")
EXIT_OK, EXIT_FAILED = 0, 1


class StartError(Exception):
    """The service cannot start; the message is one clear line (a taken port, an incomplete model folder)."""


class Service(Protocol):
    """What a service adds to the shared lifecycle."""

    @property
    def full_name(self) -> str:
        """The gRPC service's full name, such as "tokenmill.v1.WorkerService"."""
        ...

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer; until `start` has returned it answers UNAVAILABLE."""
        ...

    async def start(self) -> None:
        """Load and warm up; the service is ready when this returns. Errors: StartError."""
        ...

    async def wait_broken(self) -> str:
        """Return a sentence once the service cannot go on; never return otherwise."""
        ...

    def stop_accepting(self) -> None:
        """Refuse new calls from now on; running ones go on."""
        ...

    async def close(self) -> None:
        """Free everything. No call is running any more."""
        ...


class Server:
    """One running service: its gRPC server, its health, its end. `run` is the whole life."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.health = Health(service.full_name)
        self.port = settings.port
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._grpc = grpc.aio.server(interceptors=[CallInterceptor()], options=SERVER_OPTIONS)

    async def run(self) -> int:
        """Bind, load, serve until told to stop or broken, shut down; return the exit code. Errors: StartError."""
        await self.bind()
        stopping = asyncio.create_task(self._stop.wait())
        starting = asyncio.create_task(self.service.start())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                log.event(LOGGER, logging.INFO, "stopped while loading")
                return EXIT_OK
            starting.result()
            await self.health.set_ready(ready=True)
            self.ready.set()
            log.event(LOGGER, logging.INFO, "ready", service=self.service.full_name, port=self.port)
            return await self.serve(stopping)
        finally:
            starting.cancel()
            stopping.cancel()
            await self.shut_down()

    async def bind(self) -> None:
        """Listen, and answer health and reflection; everything else is UNAVAILABLE until loaded."""
        self.service.register(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self._grpc)
        names = [self.service.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        if self.settings.reflection:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self._grpc)
        address = f"{self.settings.host}:{self.settings.port}"
        try:
            self.port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {address}: the port is taken or the address is not ours") from error
        await self._grpc.start()
        await self.health.set_live()
        log.event(LOGGER, logging.INFO, "listening", service=self.service.full_name, port=self.port)

    async def serve(self, stopping: asyncio.Task[bool]) -> int:
        """Wait for the end; return the exit code that it deserves."""
        broken = asyncio.create_task(self.service.wait_broken())
        await asyncio.wait({stopping, broken}, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            log.event(LOGGER, logging.ERROR, "broken", why=broken.result())
            return EXIT_FAILED
        broken.cancel()
        return EXIT_OK

    def stop(self) -> None:
        """Begin the shutdown; safe to call twice."""
        self._stop.set()

    async def shut_down(self) -> None:
        """Readiness off, short wait, stop accepting, finish within grace, cancel, free."""
        await self.health.set_ready(ready=False)
        if self.ready.is_set():
            log.event(LOGGER, logging.INFO, "draining", seconds=self.settings.drain_seconds)
            await asyncio.sleep(self.settings.drain_seconds)
        self.service.stop_accepting()
        await self._grpc.stop(self.settings.grace_seconds if self.ready.is_set() else 0)
        await self.service.close()
        log.event(LOGGER, logging.INFO, "stopped")


def run(make_service: Callable[[], Service], settings: ServiceSettings, program: str) -> None:
    """The `main` of every service: serve until stopped, then leave with the right exit code."""
    log.configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = runner.run(_serve(make_service, settings))
        except StartError as error:
            sys.stderr.write(f"{program}: {error}\n")
            code = EXIT_FAILED
    # Not sys.exit: a thread that is still loading a model cannot be interrupted, and must not keep us.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(make_service: Callable[[], Service], settings: ServiceSettings) -> int:
    server = Server(make_service(), settings)
    loop = asyncio.get_running_loop()
    signals_seen = 0

    def on_signal(number: int) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            os._exit(128 + number)
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return await server.run()
