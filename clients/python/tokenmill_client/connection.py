"""How a channel to a gateway is opened, and what goes with every call."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

# Answers with log-probabilities can be large; the gateway sends no larger message.
OPTIONS = [
    ("grpc.max_receive_message_length", 32 * 2**20),
    ("grpc.max_send_message_length", 32 * 2**20),
    ("grpc.enable_http_proxy", 0),  # a gateway is inside, where no proxy of the environment leads
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]

KEY_VARIABLE = "TOKENMILL_API_KEY"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    tenant: str | None = None
    metadata: Mapping[str, str] | None = None  # with every call
    api_key: str | None = field(default=None, repr=False)  # a key or a token; None: that of the environment, if any

    def of_call(self, request_id: str | None) -> tuple[tuple[str, str], ...]:
        """The metadata of one call. Its id is made here, so that it is known whatever becomes of the call."""
        own = {"x-request-id": request_id or uuid.uuid4().hex}
        if key := self.api_key if self.api_key is not None else os.environ.get(KEY_VARIABLE):
            own["authorization"] = f"Bearer {key}"
        if self.tenant is not None:
            own["x-tenant-id"] = self.tenant
        return tuple({**(self.metadata or {}), **own}.items())
