"""What the gateway can be told."""

from __future__ import annotations

import dataclasses

from rpc.settings import ServiceSettings, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatewaySettings(ServiceSettings):
    """Tokenmill gateway: text in, streamed text out."""

    port: int = option("port to listen on; 0 picks a free one", 50051, at_least=0, at_most=65535)
    tokenizer: tuple[str, ...] = option("host:port of a tokenizer service; repeatable")
    worker: tuple[str, ...] = option("host:port of a model worker; repeatable")
    default_max_new_tokens: int = option(
        "bound of an output for requests that give no max_new_tokens", 1024, at_least=1, at_most=1_000_000
    )
    max_inflight: int = option("requests that are worked on at once", 256, at_least=1, at_most=100_000)
    max_queue: int = option(
        "requests that wait for that at most; beyond it they are refused", 1024, at_least=0, at_most=100_000
    )
