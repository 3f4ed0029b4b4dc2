"""How a channel to a gateway is opened, and what goes with every call."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

# Answers with log-probabilities can be large; the gateway sends no larger message.
OPTIONS = [
    ("grpc.max_receive_message_length", 32 * 2**20),
    ("grpc.max_send_message_length", 32 * 2**20),
    ("grpc.enable_http_proxy", 0),  # a gateway is inside, where no proxy of the environment leads
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    tenant: str | None = None
    metadata: Mapping[str, str] | None = None  # with every call

    def of_call(self, request_id: str | None) -> tuple[tuple[str, str], ...]:
        """The metadata of one call. Its id is made here, so that it is known whatever becomes of the call."""
        own = {"x-request-id": request_id or uuid.uuid4().hex}
        if self.tenant is not None:
            own["x-tenant-id"] = self.tenant
        return tuple({**(self.metadata or {}), **own}.items())
