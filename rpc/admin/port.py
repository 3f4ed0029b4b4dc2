"""The admin port: HTTP/1.1 on 127.0.0.1, whatever `--host` says, never TLS, no credential. Off unless asked for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from rpc import log
from rpc.admin.app import Operated, answer_to, text_of
from rpc.admin.guard import check
from rpc.admin.refusal import Refusal
from rpc.http_connection import HEADER_SECONDS, ConnectionRules
from rpc.http_server import HttpServer

LOGGER = logging.getLogger("tokenmill.admin")
HOST = "127.0.0.1"
MAX_CONNECTIONS = 16  # an operator, and a script of theirs
MAX_BODY_BYTES = 4096  # a log level
BODY_SECONDS = 5.0


class AdminApp:
    """The port's ASGI application."""

    def __init__(self, operated: Operated) -> None:
        self._operated = operated

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        method = scope["method"]
        try:
            check(method, scope["headers"])
            status, answer = 200, answer_to(self._operated, method, scope["path"], await _body(receive))
        except Refusal as refusal:
            status, answer = refusal.status, {"error": str(refusal)}
        body = text_of(answer)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


async def open_admin_port(port: int | None, operated: Operated) -> HttpServer | None:
    """Listen, if there is to be such a port. Errors: StartError."""
    if port is None:
        return None
    app = AdminApp(operated)
    rules = ConnectionRules(MAX_CONNECTIONS, HEADER_SECONDS, peers=None, stranger_app=app)
    server = HttpServer(app, HOST, port, rules)
    await server.listen()
    log.event(LOGGER, logging.INFO, "listening for the operator", port=server.port)
    return server


async def _body(receive: Any) -> bytes:
    """Errors: Refusal if it is too large or does not arrive."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise Refusal(413, f"at most {MAX_BODY_BYTES} bytes")
                if not message.get("more_body", False):  # the sender's leaving has no more either
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
