"""One RPC on its way through its handler: request id in and out, every exception to a status, one log line.

Requests are decoded and responses encoded here and not by the library, which would answer a malformed one with UNKNOWN
and an oversized one without details. The request id is returned after the last response: headers of our own would be an
operation by itself for the library, a round trip through its threads before the first token. It sends headers along
with the first response and not before, so that a call without a response can be retried by its caller's library.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from rpc import log
from rpc.call_record import CURRENT, REQUEST_ID_KEY, CallRecord
from rpc.errors import ServiceError, internal, malformed_message, response_too_large
from rpc.metrics import CallMetrics
from rpc.running_calls import RunningCall, RunningCalls
from rpc.status import details_metadata
from rpc.tls.peers import AcceptedPeers
from rpc.tracing.calls import ERROR_TYPE, FAULTS, STATUS_CODE
from rpc.transport import MAX_MESSAGE_BYTES

LOGGER = logging.getLogger("tokenmill.rpc")
QUIET_PREFIXES = ("/grpc.health.", "/grpc.reflection.")  # probes would drown the log

Context = grpc.aio.ServicerContext[Any, Any]
# The library's types for handlers are those of its synchronous server; ours are asynchronous.
Handler = Any


class Call:
    """One RPC; owned by the task that handles it."""

    def __init__(
        self, handler: Handler, record: CallRecord, running: RunningCalls, peers: AcceptedPeers | None = None
    ) -> None:
        """`peers`: who may call; None: everybody who can."""
        self.handler = handler
        self.record = record
        self.running = running
        self.peers = peers
        self.started = time.monotonic()
        self.request_id = (REQUEST_ID_KEY, record.request_id)
        self.is_quiet = record.method.startswith(QUIET_PREFIXES)
        self.is_work = not self.is_quiet and not _is_lasting(record.method.rpartition("/")[2])

    async def unary(self, raw: Any, context: Context) -> bytes:
        """Handle a method that answers with one message; return it encoded."""
        async with self.handled(context):
            method: Callable[..., Awaitable[Any]] = self.handler.stream_unary or self.handler.unary_unary
            response = await method(self.request(raw), context)
            return self.encode(response)

    async def stream(self, raw: Any, context: Context) -> None:
        """Handle a method that answers with a stream.

        It writes, instead of being a generator itself: a cancelled call is then cancelled here, at an await, and
        closes the handler's generator at once instead of leaving it to the garbage collector.
        """
        async with self.handled(context):
            method = self.handler.stream_stream or self.handler.unary_stream
            async with aclosing(method(self.request(raw), context)) as responses:
                async for response in responses:
                    await context.write(self.encode(response))

    def request(self, raw: Any) -> Any:
        """The decoded request, or the iterator over decoded requests."""
        return self.decoded(raw) if self.handler.request_streaming else self.decode(raw)

    async def decoded(self, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Decode the requests of a stream, each when it is asked for. Errors: ServiceError (MALFORMED_MESSAGE)."""
        async for message in raw:
            yield self.decode(message)

    def decode(self, raw: bytes) -> Any:
        """Decode one request. Errors: ServiceError (MALFORMED_MESSAGE)."""
        try:
            return self.handler.request_deserializer(raw)
        except (DecodeError, UnicodeDecodeError) as error:
            raise malformed_message() from error

    def encode(self, response: Any) -> bytes:
        """Encode one response. Errors: ServiceError (MESSAGE_TOO_LARGE), which the library would not log."""
        encoded: bytes = self.handler.response_serializer(response)
        if len(encoded) > MAX_MESSAGE_BYTES:
            raise response_too_large(len(encoded), MAX_MESSAGE_BYTES)
        return encoded

    @asynccontextmanager
    async def handled(self, context: Context) -> AsyncIterator[None]:
        """Count the body as this RPC; report its end to the caller and to the log."""
        CURRENT.set(self.record)
        with self.running.entered(is_work=self.is_work) as running:
            context.set_trailing_metadata((self.request_id,))
            try:
                if self.peers is not None:
                    self.peers.check(context)
                yield
            except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes a status or is raised again
                await self.fail(context, error, running)
            self.log("OK")

    async def fail(self, context: Context, error: BaseException, running: RunningCall) -> NoReturn:
        """Log how the call failed, and end it with the status that `error` stands for, or raise for the library."""
        if isinstance(error, asyncio.CancelledError) and running.interruption is not None:
            _this_task().uncancel()
            error = running.interruption
        if isinstance(error, grpc.aio.AbortError):
            self.log(context.code().name)
            raise error
        if not isinstance(error, Exception) or _is_lost_connection(error):
            self.log("DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED")
            raise error
        if not isinstance(error, ServiceError):
            fields = {"method": self.record.method, **self.record.ids}
            LOGGER.error("unhandled exception", exc_info=error, extra={log.FIELDS: fields})
            error = internal()
        self.log(error.code.name, reason=error.reason)
        await context.abort(error.code, error.message, (self.request_id, details_metadata(error)))

    def log(self, code: str, **fields: str) -> None:
        """Count the call, and write its one log line."""
        seconds = time.monotonic() - self.started
        note_end(self.running.metrics, self.record, seconds, code, is_quiet=self.is_quiet, fields=fields)


def note_end(
    metrics: CallMetrics,
    record: CallRecord,
    seconds: float,
    code: str,
    *,
    fields: Mapping[str, str],
    is_quiet: bool = False,
) -> None:
    """Count a call that has ended with `code` after so many seconds, write its log line, and end its span."""
    metrics.end(record.method, code, seconds, fields.get("reason", ""))
    log.event(
        LOGGER,
        logging.DEBUG if is_quiet else logging.INFO,
        "rpc",
        method=record.method,
        code=code,
        duration_ms=round(seconds * 1000, 1),
        **record.ids,
        **fields,
        **record.counts,
    )
    _end_span(record, code, fields.get("reason", code))


def _end_span(record: CallRecord, code: str, reason: str) -> None:
    span = record.span
    if span.is_recording:
        span.set({f"tokenmill.{name}": count for name, count in record.counts.items()})
        if record.method.startswith("/"):  # those of HTTP begin with a verb, and have codes of their own
            span.set({STATUS_CODE: code})
        if code != "OK":
            span.set({ERROR_TYPE: reason})
    span.end(reason if code in FAULTS else "")


def _is_lasting(method: str) -> bool:
    """Whether an RPC goes on until its caller leaves, by convention: Watch… tells, …Many carries calls of their own."""
    return method.startswith("Watch") or method.endswith("Many")


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None, "RPCs are handled in tasks"
    return task


def _is_lost_connection(error: Exception) -> bool:
    """Whether the library could not send because nobody is there any more, which it may notice before it cancels us."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)
