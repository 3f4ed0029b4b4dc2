"""One connection of a caller: h11's and uvicorn's, with bounds that those have not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rpc.errors import ServiceError
from rpc.tls.peers import AcceptedPeers

AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
# Lines of a head; browsers and proxies need a third of that. Each costs the event loop a microsecond or more, so that a
# head of nothing but lines, which comes in one piece, would hold it up.
MAX_HEAD_LINES = 200
ABORT = "abort"  # what an application ends its connection with, whatever is unread; in the state of its scope
HEADER_SECONDS = 20.0  # a request's head is one packet or a few; who needs longer holds a connection for nothing
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """What holds for all connections of a server."""

    max_connections: int  # each costs memory and a file descriptor; those beyond are told so and closed
    header_seconds: float  # that a head, or the rest of a body that was refused, may take to arrive
    peers: AcceptedPeers | None  # who is let in by TLS; None: no TLS
    stranger_app: AsgiApp  # what others are answered by
    max_age_seconds: float | None = None  # after which an answer is the last on its connection


class Connection(H11Protocol):
    """Owned by uvicorn's server."""

    def __init__(self, rules: ConnectionRules, **given: Any) -> None:
        """`given` is what uvicorn gives."""
        super().__init__(**given)
        self._rules = rules
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """After the handshake, if there is TLS."""
        super().connection_made(transport)
        self.app_state = {ABORT: self.transport.abort}
        if len(self.connections) > self._rules.max_connections:
            self._leave(_FULL)
        elif self._is_stranger():
            self.app = self._rules.stranger_app
        if self._rules.max_age_seconds is not None:
            self.app = _last_after(self.loop.time() + self._rules.max_age_seconds, self.loop.time, self.app)
        self._begin_timer()

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        super().data_received(data)
        is_refused = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        if is_refused or self.conn.their_state is h11.IDLE:
            self._begin_timer()
        else:
            self._end_timer()

    def handle_events(self) -> None:
        """What has come of the next request, be it new or behind the one before."""
        if self.conn.their_state is h11.IDLE and self._has_too_many_lines():
            self._leave(_TOO_LARGE)
        else:
            super().handle_events()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has come since the last answer. One that was not read in that time never will be."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._end_timer()
        super().connection_lost(exc)

    def _begin_timer(self) -> None:
        """Not anew with every byte: what comes drop by drop is as late as what never comes."""
        if self._timer is None:
            self._timer = self.loop.call_later(self._rules.header_seconds, self._end_wait)

    def _end_wait(self) -> None:
        self._leave(_TOO_SLOW if self.conn.our_state is h11.IDLE else b"")

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self, last_words: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(last_words)
            self.transport.close()

    def _has_too_many_lines(self) -> bool:
        come, _ = self.conn.trailing_data
        end = _END_OF_HEAD.search(come)
        return come.count(b"\n", 0, end.start() if end else len(come)) > MAX_HEAD_LINES

    def _is_stranger(self) -> bool:
        if self._rules.peers is None:
            return False
        certificate = self.transport.get_extra_info("peercert") or {}
        names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in {"DNS", "URI"}]
        try:
            self._rules.peers.check_names(names)
        except ServiceError:
            return True
        return False


def _last_after(end: float, clock: Callable[[], float], app: AsgiApp) -> AsgiApp:
    """Answers of `app`; from `end` on each tells its caller to open another connection for the next request."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_or_say_last(message: Any) -> None:
            if message["type"] == "http.response.start" and clock() >= end:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, send_or_say_last)

    return answer
