"""What the tokenizer service can be told."""

from __future__ import annotations

import dataclasses

from rpc.settings import ServiceSettings, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings(ServiceSettings):
    """Tokenmill tokenizer service: chat templates, text to tokens and back, on CPUs."""

    port: int = option("port to listen on; 0 picks a free one", 50052, at_least=0, at_most=65535)
    model: tuple[str, ...] = option("[NAME=]PATH of a model folder; repeatable. Without NAME: the folder's name")
    threads: int | None = option(
        "threads that encode, and processes that render templates; none: the cores our cgroup grants",
        None,
        at_least=1,
        at_most=256,
    )
    max_input_bytes: int = option(
        "UTF-8 bytes of text in one request", 4 * 2**20, at_least=1, at_most=16 * 2**20, size=True
    )
    max_queue: int = option(
        "requests that wait for a thread or a render process at most", 64, at_least=1, at_most=10_000
    )
    template_seconds: float = option("how long one chat template may render", 2.0, at_least=0.01, at_most=60)
