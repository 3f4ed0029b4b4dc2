"""A trace as callers name it: W3C Trace Context, read and passed on also where nobody traces.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PARENT_KEY, STATE_KEY = "traceparent", "tracestate"
MAX_STATE_BYTES = 512  # what everybody has to pass on; of more, nothing is
_SAMPLED = 0x01
_PARENT = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
_STATE = re.compile(r"[\x20-\x7e\t]*")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of a trace, which those are told of who are asked on its behalf."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    flags: int = 0
    state: str = ""  # of tracing systems on the way; nobody's text of ours, and never logged

    @property
    def is_sampled(self) -> bool:
        """Whether it is recorded by who began it."""
        return bool(self.flags & _SAMPLED)

    @property
    def parent(self) -> str:
        """As the value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As metadata of a call, or headers."""
        parent = ((PARENT_KEY, self.parent),)
        return (*parent, (STATE_KEY, self.state)) if self.state else parent


def trace_context(parent: str, state: str = "") -> TraceContext | None:
    """From the values of `traceparent` and `tracestate`; None if the first is none that the standard knows.

    Of a later version than ours the part that we know is read, as it asks. A state that nobody has to pass on is left
    out.
    """
    known = _PARENT.match(parent)
    if known is None or known["version"] == "ff" or known["trace"] == _NO_TRACE or known["span"] == _NO_SPAN:
        return None
    rest = parent[known.end() :]
    if rest and (known["version"] == "00" or not rest.startswith("-")):
        return None
    can_pass = len(state) <= MAX_STATE_BYTES and _STATE.fullmatch(state)
    return TraceContext(known["trace"], known["span"], int(known["flags"], 16) & _SAMPLED, state if can_pass else "")


def trace_context_from(metadata: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """From a call's metadata, or headers; None if there is no usable one."""
    parents, states = [], []
    for key, value in metadata:
        if key == PARENT_KEY and isinstance(value, str):
            parents.append(value)
        elif key == STATE_KEY and isinstance(value, str):
            states.append(value)
    # Several parents contradict each other; a state may be spread over several headers.
    return trace_context(parents[0], ",".join(states)) if len(parents) == 1 else None
