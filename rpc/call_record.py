"""What is known about the RPC being handled: its id, its trace, and the token counts that its log line will carry."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

from rpc.tracing.span import UNTRACED, Span

REQUEST_ID_KEY = "x-request-id"
# What we accept from callers: bounded, and safe to print in a log line or to send on as a header.
ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(slots=True)
class CallRecord:
    """One RPC; owned by the task that handles it. Counts only, never text."""

    method: str
    request_id: str
    counts: dict[str, int] = field(default_factory=dict)
    span: Span = UNTRACED

    @property
    def ids(self) -> dict[str, str]:
        """For log lines about it."""
        trace = self.span.context
        return {"request_id": self.request_id} | ({"trace_id": trace.trace_id} if trace else {})


CURRENT: ContextVar[CallRecord] = ContextVar("tokenmill_call_record")


def request_id_from(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's request id if it sent a usable one, else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str) and ACCEPTED_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def current_request_id() -> str:
    """The id of the RPC being handled; empty outside of one."""
    record = CURRENT.get(None)
    return record.request_id if record else ""


def current_span() -> Span:
    """The RPC being handled, as a part of its trace."""
    record = CURRENT.get(None)
    return record.span if record else UNTRACED


def count_tokens(**counts: int) -> None:
    """Put token counts into the log line of the RPC being handled."""
    record = CURRENT.get(None)
    if record:
        record.counts.update(counts)
