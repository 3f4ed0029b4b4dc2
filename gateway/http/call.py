"""One HTTP request on its way through its handler, as `rpc.call` is for an RPC.

Request id in and out, every exception to an answer, one log line. A caller that goes away cancels the handler at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from gateway.http.errors import body_of, body_too_large, body_too_slow, headers_of, status_of
from gateway.http.messages import Answer, Events, Handler, HttpRequest, dumped, event
from rpc import log
from rpc.call import note_end
from rpc.call_record import CURRENT, REQUEST_ID_KEY, CallRecord, request_id_from
from rpc.errors import ServiceError, deadline_exceeded, internal
from rpc.http_connection import ABORT
from rpc.running_calls import RunningCall, RunningCalls
from rpc.tracing.trace_context import trace_context_from

LOGGER = logging.getLogger("tokenmill.http")
# Of text, or of token ids in decimal: more than any context holds, and read as JSON in a tenth of a second or so.
MAX_BODY_BYTES = 8 * 2**20
BODY_SECONDS = 30.0  # how long a caller may take to send its request
FAREWELL_SECONDS = 3.0  # how long a call that has failed waits for its caller to read so; less than a shutdown does
VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class HttpCalls:
    """What holds for all calls of one server."""

    running: RunningCalls
    longest_seconds: float
    check_caller: Callable[[Iterable[tuple[str, str | bytes]]], None]


@dataclass(frozen=True, slots=True)
class Handled:
    """`handler` as an ASGI application. The calls of a quiet one are no work, and not logged.

    Who calls is checked before the request is read, unless it is open to everybody.
    """

    handler: Handler
    calls: HttpCalls
    is_quiet: bool = False
    is_open: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        call = _HttpCall(self, scope, receive, send)
        with self.calls.running.entered(is_work=not self.is_quiet) as running:
            await call.handle(running)


class _CallerLeftError(Exception):
    """There is nobody any more to answer."""


class _HttpCall:
    """One request; owned by the task that handles it."""

    def __init__(self, handled: Handled, scope: Scope, receive: Receive, send: Send) -> None:
        self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        # The route, never the path that was asked for, and a verb that there is: what callers make up has no place in a
        # log, or among the labels of metrics.
        verb = scope["method"] if scope["method"] in VERBS else "OTHER"
        route = getattr(scope.get("route"), "path", "unknown")
        self._record = CallRecord(f"{verb} {route}", request_id_from(self._headers))
        self._path_parameters: Mapping[str, str] = scope.get("path_params", {})
        self._handled = handled
        self._calls = handled.calls
        if not handled.is_quiet:
            attributes = {"http.request.method": verb, "http.route": route}
            parent = trace_context_from(self._headers)
            self._record.span = self._calls.running.tracer.start(self._record.method, parent, attributes)
        self._receive = receive
        self._send = send
        self._abort: Callable[[], None] = scope["state"][ABORT]
        self._began = time.monotonic()
        self._is_started = self._is_stream = self._is_left = False
        self._status: int | None = None  # that the caller is told

    async def handle(self, running: RunningCall) -> None:
        """Answer, whatever happens."""
        CURRENT.set(self._record)
        try:
            if not self._handled.is_open:
                self._calls.check_caller(self._headers)
            request = HttpRequest(self._headers, self._path_parameters, await self._body())
            async with self._within_time(), self._until_left():
                answer = await self._handled.handler(request)
                await (self._stream(answer) if isinstance(answer, Events) else self._answer(answer))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes an answer or is raised again
            await self._fail(error, running)
        else:
            self._log("OK")

    async def _body(self) -> bytes:
        """Errors: ServiceError if it is too large or does not arrive; _CallerLeftError."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise _CallerLeftError
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY_BYTES:
                        raise body_too_large(MAX_BODY_BYTES)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise body_too_slow(BODY_SECONDS) from None

    @asynccontextmanager
    async def _within_time(self) -> AsyncIterator[None]:
        """For one who does not read what it asked for, too. Errors: ServiceError (DEADLINE_EXCEEDED)."""
        try:
            async with asyncio.timeout(self._calls.longest_seconds) as limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise deadline_exceeded() from None
            raise

    @asynccontextmanager
    async def _until_left(self) -> AsyncIterator[None]:
        """Cancel the body when the caller goes away. Precondition: the request has been read."""
        task = asyncio.current_task()
        assert task is not None, "requests are handled in tasks"

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._is_left = True
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _answer(self, answer: Answer) -> None:
        own = {"content-type": answer.media_type, "content-length": str(len(answer.body))}
        await self._begin(answer.status, {**own, **answer.headers})
        await self._write(answer.body)

    async def _stream(self, stream: Events) -> None:
        self._is_stream = True
        async with aclosing(stream.events) as events:
            async for one in events:
                if not self._is_started:
                    await self._begin(200, STREAM_HEADERS)
                await self._write(one, more=True)
        await self._write(b"")

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._is_started, self._status = True, status
        all_headers = {**headers, REQUEST_ID_KEY: self._record.request_id}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _write(self, body: bytes, *, more: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _fail(self, error: BaseException, running: RunningCall) -> None:
        """Log how the call failed, and say it to the caller if there still is one."""
        if isinstance(error, asyncio.CancelledError) and (self._is_left or running.interruption is not None):
            task = asyncio.current_task()
            assert task is not None, "requests are handled in tasks"
            task.uncancel()
            error = _CallerLeftError() if self._is_left else running.interruption or error
        if isinstance(error, _CallerLeftError | ConnectionError):
            self._log("CANCELLED")
            return
        if not isinstance(error, Exception):
            self._log("CANCELLED")
            raise error
        if not isinstance(error, ServiceError):
            fields = {"method": self._record.method, **self._record.ids}
            LOGGER.error("unhandled exception", exc_info=error, extra={log.FIELDS: fields})
            error = internal()
        self._status = self._status or status_of(error)
        self._log(error.code.name, reason=error.reason)
        body = dumped(body_of(error))
        # The time of a call is over, but not for who does not read: this would wait for ever.
        given_up = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._abort)
        try:
            await self._say_farewell(error, body)
        finally:
            given_up.cancel()

    async def _say_farewell(self, error: ServiceError, body: bytes) -> None:
        if not self._is_started:
            await self._answer(Answer(body, status=status_of(error), headers=headers_of(error)))
        elif self._is_stream:
            await self._write(event(body), more=True)
            await self._write(b"")

    def _log(self, code: str, **fields: str) -> None:
        seconds = time.monotonic() - self._began
        if self._status is not None:
            self._record.span.set({"http.response.status_code": self._status})
        metrics = self._calls.running.metrics
        note_end(metrics, self._record, seconds, code, is_quiet=self._handled.is_quiet, fields=fields)
