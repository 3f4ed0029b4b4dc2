"""An HTTP port of a service: uvicorn on our own event loop, which lives and ends with the service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn

from rpc.http_connection import AsgiApp, Connection, ConnectionRules
from rpc.start_error import StartError
from rpc.tls.server import ServerTls
from rpc.transport import HANDSHAKE_SECONDS, join_address

MAX_HEADER_BYTES = 64 * 1024
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
CLOSE_SECONDS = 5.0  # that connections have to close in, once no call runs any more


class HttpServer:
    """Owns the listening socket and the connections."""

    def __init__(
        self, app: AsgiApp, host: str, port: int, rules: ConnectionRules, tls: ServerTls | None = None
    ) -> None:
        self._app = app
        self._rules = rules
        self._tls = tls
        self._host = host
        self.port = port  # the one listened on, after `listen`
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Take connections. Errors: StartError."""
        tls = self._tls
        listening = _bound(self._host, self.port)
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=partial(Connection, self._rules),  # type: ignore[arg-type]  # as good as the class it wants
            ssl_context_factory=None if tls is None else lambda *_: tls.http_context(),
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            backlog=BACKLOG,
        )
        self._server = _Uvicorn(config)
        self._serving = asyncio.create_task(self._server.serve([listening]))
        await self._server.listening.wait()

    def stop_accepting(self) -> None:
        """Take no more connections; those that are idle end, others after their answer."""
        if self._server is not None:
            self._server.should_exit = True

    async def close(self) -> None:
        """End what is left."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.wait({self._serving})
        if not self._serving.done():
            self._server.force_exit = True
            await asyncio.wait({self._serving})


class _Uvicorn(uvicorn.Server):
    """Signals are the service's own, and it says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """In place of uvicorn's own, which leaves a handshake the minute that asyncio gives it."""
        config, loop = self.config, asyncio.get_running_loop()
        make: Any = config.http_protocol_class
        connection = partial(make, config=config, server_state=self.server_state, app_state={})
        seconds = None if config.ssl is None else HANDSHAKE_SECONDS
        self.servers = [
            await loop.create_server(
                connection, sock=one, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=seconds
            )
            for one in sockets or ()
        ]
        self.started = True
        self.listening.set()


def _bound(host: str, port: int) -> socket.socket:
    """Errors: StartError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on {join_address(host, port)}: {error.strerror}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen on {join_address(host, port)}: {error.strerror}") from error
    return listening
