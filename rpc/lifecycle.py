"""How every service lives.

Bind → load → warm up → ready. SIGTERM: readiness off → short wait → take what has come in → stop accepting → finish
within grace → cancel. What makes a process of that: `process`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpc import log
from rpc.admin.app import Operated
from rpc.admin.port import open_admin_port
from rpc.health import LIVENESS, Health
from rpc.http_server import HttpServer
from rpc.interceptor import CallInterceptor
from rpc.metrics import LoopMetrics, ServiceMetrics, make_registry
from rpc.metrics_port import open_metrics_port
from rpc.reloaded import RefusedContentError
from rpc.running_calls import CLEAN_UP_SECONDS, RunningCalls
from rpc.service import Service, Surroundings
from rpc.settings import ServiceSettings
from rpc.start_error import StartError
from rpc.tls.expiry import CertificateMetrics
from rpc.tls.server import ServerTls, server_tls
from rpc.tracing.choice import tracer_for
from rpc.transport import join_address, make_server, open_channel

LOGGER = logging.getLogger("tokenmill.lifecycle")
EXIT_OK, EXIT_FAILED = 0, 1
# With TLS there is a second port, for the calls of a service to itself: it cannot prove to itself who it is. Nothing is
# answered there but health, as what does not come over TLS is refused.
OWN_HOST = "127.0.0.1"
TAKE_IN_SECONDS = 5.0  # the longest that a shutdown waits for its own event loop to take what has come in


class Server:
    """One running service: its gRPC server, its health, its end. `run` is the whole life.

    `port` is the one listened on once `listening` is set.
    """

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        """Errors: StartError, of files that `settings` name."""
        self.service = service
        self.settings = settings
        self.health = Health(service.full_name)
        self.port = self._own_port = settings.port
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._tls = _identity(settings)
        self._tracer = tracer_for(settings.otlp_traces_endpoint, f"tokenmill-{service.name}")
        running = RunningCalls(tracer=self._tracer)
        self._interceptor = CallInterceptor(service.check_caller, self._tls.peers if self._tls else None, running)
        self._loop_metrics = LoopMetrics()
        self._certificates = CertificateMetrics()
        if self._tls is not None:
            self._certificates.follow("server", self._tls.pem)
        own = ServiceMetrics(service.name, lambda: self.health.is_ready, self._is_draining)
        calls = self._interceptor.running.metrics
        self.registry = make_registry(own, self._loop_metrics, calls, self._certificates)
        self.metrics_port: HttpServer | None = None
        self.admin_port: HttpServer | None = None
        self._watching: asyncio.Task[None] | None = None  # the event loop
        age = settings.max_connection_age_seconds
        self._grpc = make_server(self._interceptor, max_connection_age_seconds=age)

    async def run(self) -> int:
        """Bind, load, serve until told to stop or broken, shut down; return the exit code. Errors: StartError."""
        try:
            await self.bind()
            return await self.load_and_serve()
        finally:
            await self.shut_down()

    async def bind(self) -> None:
        """Listen, and answer health and reflection; everything else is UNAVAILABLE until loaded."""
        self.service.register(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._grpc)
        names = [self.service.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        if self.settings.reflection:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self._grpc)
        address = join_address(self.settings.host, self.settings.port)
        try:
            _try_bind(self.settings.host, self.settings.port)
            if self._tls is None:
                self.port = self._own_port = self._grpc.add_insecure_port(address)
            else:
                self.port = self._grpc.add_secure_port(address, self._tls.grpc_credentials())
                self._own_port = self._grpc.add_insecure_port(f"{OWN_HOST}:0")
        except OSError as error:
            raise StartError(f"cannot listen on {address}: {error.strerror}") from error
        except RuntimeError as error:  # lost the race for the port
            raise StartError(f"cannot listen on {address}") from error
        await self.service.listen(self._surroundings())
        settings = self.settings
        self.metrics_port = await open_metrics_port(settings.host, settings.metrics_port, self.registry, self.health)
        self.admin_port = await open_admin_port(settings.admin_port, self._operated())
        await self._grpc.start()
        self._watching = asyncio.create_task(self._loop_metrics.watch())
        self.health.set_live()
        self.listening.set()
        log.event(LOGGER, logging.INFO, "listening", service=self.service.full_name, port=self.port)

    async def load_and_serve(self) -> int:
        """Load, turn ready, serve; return the exit code. Errors: StartError."""
        stopping = asyncio.create_task(self._stop.wait())
        starting = asyncio.create_task(self.service.start())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                log.event(LOGGER, logging.INFO, "stopped while loading")
                return EXIT_OK
            starting.result()
            self.health.set_ready(ready=True)
            self.ready.set()
            log.event(LOGGER, logging.INFO, "ready", service=self.service.full_name, port=self.port)
            return await self.serve(stopping)
        finally:
            await _cancel(starting, stopping)

    async def serve(self, stopping: asyncio.Task[Any]) -> int:
        """Wait for the end; return the exit code that it deserves."""
        broken = asyncio.create_task(self.service.wait_broken())
        try:
            await asyncio.wait({stopping, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                log.event(LOGGER, logging.ERROR, "broken", why=broken.result())
                return EXIT_FAILED
        finally:
            await _cancel(broken)
        self.health.set_ready(ready=False)
        log.event(LOGGER, logging.INFO, "draining", seconds=self.settings.drain_seconds)
        # In full, even when nothing runs: it is for the calls of those who have not heard yet.
        await asyncio.sleep(self.settings.drain_seconds)
        await self._take_in()
        return EXIT_OK

    def stop(self) -> None:
        """Begin the shutdown; safe to call twice."""
        self._stop.set()

    async def shut_down(self) -> None:
        """Readiness off, stop accepting, finish within grace, end what is left, free."""
        self.health.set_ready(ready=False)
        self.service.stop_accepting()
        await self._take_in()
        # The library waits for every call, watches of health included, so its own grace is only the last resort.
        grace = self.settings.grace_seconds
        stopped = asyncio.create_task(self._grpc.stop(grace + CLEAN_UP_SECONDS))
        ended = await self._interceptor.running.finish(grace)
        await stopped
        await self.service.close()
        for port in (self.metrics_port, self.admin_port):
            if port is not None:
                await port.close()
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.to_thread(self._tracer.close)
        log.event(LOGGER, logging.INFO, "stopped", ended_calls=ended)

    async def _take_in(self) -> None:
        """Return once every call that has come in by now is being handled.

        The library hands calls to our event loop one at a time, in order, and cancels those that still wait for it when
        the server stops, as if their callers had left. So we make a call ourselves: after its answer none is older.
        """
        if not self.listening.is_set():
            return
        request = health_pb2.HealthCheckRequest(service=LIVENESS)
        host = self.settings.host if self._tls is None else OWN_HOST
        async with open_channel(join_address(host, self._own_port)) as channel:
            health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
            with suppress(grpc.aio.AioRpcError):  # it is too busy even for that
                await health.Check(request, timeout=TAKE_IN_SECONDS)

    def _is_draining(self) -> bool:
        return self._stop.is_set() or self.health.is_drained

    def _operated(self) -> Operated:
        service = self.service
        return Operated(service.full_name, self.settings, self.health, self._interceptor.running, service.describe)

    def _surroundings(self) -> Surroundings:
        running, certificates = self._interceptor.running, self._certificates
        return Surroundings(running, self.health, self.port, self.registry, certificates, self._tls)


def _identity(settings: ServiceSettings) -> ServerTls | None:
    try:
        return server_tls(settings)
    except RefusedContentError as error:
        raise StartError(str(error)) from None


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLEAN_UP_SECONDS):
            await asyncio.gather(*tasks, return_exceptions=True)


def _try_bind(host: str, port: int) -> None:
    """Ask the kernel whether we may listen there: gRPC would log why not in lines of its own. Errors: OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
