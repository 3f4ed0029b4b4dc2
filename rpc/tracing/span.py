"""What a request is traced with: the same everywhere, whether anybody traces or not.

Names and attributes are ours, and numbers: never a text of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Protocol, TypeAlias

from rpc.errors import ServiceError
from rpc.tracing.trace_context import TraceContext

Value: TypeAlias = str | int | float | bool | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]
NOTHING: Attributes = {}
CANCELLED = "CANCELLED"


class Kind(Enum):
    """Whose view a span is."""

    SERVER = auto()  # of who was asked
    CLIENT = auto()  # of who asks
    INTERNAL = auto()


class Span(Protocol):
    """A part of a trace, from its start on; whoever started it ends it."""

    @property
    def context(self) -> TraceContext | None:
        """What those are told who are asked on its behalf."""
        ...

    @property
    def is_recording(self) -> bool:
        """Whether anything will become of it: if not, attributes need not be found out."""
        ...

    def child(self, name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes = NOTHING) -> Span:
        """Start a part of it."""
        ...

    def past_child(self, name: str, began_ns: int, ended_ns: int, attributes: Attributes = NOTHING) -> None:
        """Tell of a part of it that is over. Times: nanoseconds since the epoch."""
        ...

    def set(self, attributes: Attributes) -> None:
        """Tell more of it."""
        ...

    def end(self, error: str = "") -> None:
        """It is over; `error`: the reason why it failed."""
        ...


class Tracer(Protocol):
    """Of one service."""

    def start(self, name: str, parent: TraceContext | None, attributes: Attributes = NOTHING) -> Span:
        """Start what a caller asked for. `parent`: what the caller told."""
        ...

    def close(self) -> None:
        """Send what has been collected. It may block, for a bounded time."""
        ...


class PassedOn:
    """A span where nobody traces: what the caller told is told on, as it was."""

    is_recording = False

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def child(self, _name: str, _kind: Kind = Kind.INTERNAL, _attributes: Attributes = NOTHING) -> Span:
        """The same."""
        return self

    def past_child(self, _name: str, _began_ns: int, _ended_ns: int, _attributes: Attributes = NOTHING) -> None:
        """Nobody listens."""

    def set(self, _attributes: Attributes) -> None:
        """Nobody listens."""

    def end(self, _error: str = "") -> None:
        """Nobody listens."""


class NoTracer:
    """For a service that does not trace."""

    def start(self, _name: str, parent: TraceContext | None, _attributes: Attributes = NOTHING) -> Span:
        """Something to pass on."""
        return UNTRACED if parent is None else PassedOn(parent)

    def close(self) -> None:
        """There is nothing to send."""


UNTRACED: Span = PassedOn(None)


@contextmanager
def part_of(span: Span, name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes = NOTHING) -> Iterator[Span]:
    """The body as a part of `span`, with how it ended."""
    child = span.child(name, kind, attributes)
    error = ""
    try:
        yield child
    except ServiceError as failure:
        error = failure.reason
        raise
    except Exception as failure:
        error = type(failure).__name__
        raise
    except BaseException:
        error = CANCELLED
        raise
    finally:
        child.end(error)
