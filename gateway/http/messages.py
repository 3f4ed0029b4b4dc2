"""What an HTTP handler gets and gives, apart from the server that carries it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, read to its end."""

    headers: Sequence[tuple[str, str]]  # names in lower case
    path_parameters: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    body: bytes
    media_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Events:
    """An answer that is sent as it comes to be: server-sent events, each as it stands on the wire.

    Nothing is sent before the first, so that what fails until then still has a status of its own.
    """

    events: AsyncGenerator[bytes, None]


Handler: TypeAlias = Callable[[HttpRequest], Awaitable[Answer | Events]]


def json_answer(content: Any, status: int = 200) -> Answer:
    """`content` as JSON."""
    return Answer(dumped(content), status=status)


def dumped(content: Any) -> bytes:
    """`content` as JSON text without spaces."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def event(data: bytes, name: str = "") -> bytes:
    """A server-sent event. `data` has no line breaks, as JSON text without spaces has none."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"
