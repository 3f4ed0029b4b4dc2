"""A port of every service for those who watch it: metrics, and its health over HTTP for whoever speaks no gRPC.

It never speaks TLS and asks for no credential: whoever reaches it sees counts, and names of models.
"""

from __future__ import annotations

import logging
from typing import Any

from prometheus_client import CollectorRegistry

from rpc import log
from rpc.health import Health
from rpc.http_connection import HEADER_SECONDS, ConnectionRules
from rpc.http_server import HttpServer
from rpc.metrics import TEXT_TYPE, text_of

LOGGER = logging.getLogger("tokenmill.lifecycle")
MAX_CONNECTIONS = 64  # a scraper or two, and probes
_TEXT = "text/plain; charset=utf-8"


class MetricsApp:
    """The port's ASGI application."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._registry = registry
        self._health = health

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Answer one request. What its body says is not read."""
        status, media_type, body = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in {"GET", "HEAD"}:
            return 405, _TEXT, b"only GET\n"
        match path:
            case "/metrics":
                return 200, TEXT_TYPE, text_of(self._registry)
            case "/health":
                return 200, _TEXT, b"alive\n"
            case "/ready":
                return (200, _TEXT, b"ready\n") if self._health.is_ready else (503, _TEXT, b"not ready\n")
        return 404, _TEXT, b"there are /metrics, /health and /ready\n"


async def open_metrics_port(
    host: str, port: int | None, registry: CollectorRegistry, health: Health
) -> HttpServer | None:
    """Listen, if there is to be such a port. Errors: StartError."""
    if port is None:
        return None
    app = MetricsApp(registry, health)
    rules = ConnectionRules(MAX_CONNECTIONS, HEADER_SECONDS, peers=None, stranger_app=app)
    server = HttpServer(app, host, port, rules)
    await server.listen()
    log.event(LOGGER, logging.INFO, "listening for metrics", port=server.port)
    return server
