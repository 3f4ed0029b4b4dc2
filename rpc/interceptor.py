"""The outermost interceptor: request id in and out, every exception to a status, one log line per finished RPC.

Requests are decoded here and not by the library, which would answer a malformed one with UNKNOWN. The request id leaves
with the first response and not before: a call whose headers have not been sent can still be retried by its caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from rpc import log
from rpc.call_record import CURRENT, REQUEST_ID_KEY, CallRecord, request_id_from
from rpc.errors import ServiceError, internal, malformed_message
from rpc.status import details_metadata

LOGGER = logging.getLogger("tokenmill.rpc")
QUIET_PREFIXES = ("/grpc.health.", "/grpc.reflection.")  # probes would drown the log

Context = grpc.aio.ServicerContext[Any, Any]
# The library's types for handlers are those of its synchronous server; ours are asynchronous.
Handler = Any


class CallInterceptor(grpc.aio.ServerInterceptor[Any, Any]):
    """Wraps every method of the server, those of health and reflection included."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler with ours around it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # the library answers UNIMPLEMENTED
        metadata = handler_call_details.invocation_metadata or ()
        call = Call(handler, CallRecord(str(handler_call_details.method), request_id_from(metadata)))
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else (grpc.unary_stream_rpc_method_handler)
            )
            return make(call.stream, response_serializer=handler.response_serializer)
        make_unary = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else (grpc.unary_unary_rpc_method_handler)
        )
        return make_unary(call.unary, response_serializer=handler.response_serializer)


class Call:
    """One RPC on its way through its handler."""

    def __init__(self, handler: Handler, record: CallRecord) -> None:
        self.handler = handler
        self.record = record
        self.started = time.monotonic()
        self.request_id = (REQUEST_ID_KEY, record.request_id)

    async def unary(self, raw: Any, context: Context) -> Any:
        """Handle a method that answers with one message."""
        CURRENT.set(self.record)
        try:
            method: Callable[..., Awaitable[Any]] = self.handler.stream_unary or self.handler.unary_unary
            response = await method(self.request(raw), context)
            await context.send_initial_metadata((self.request_id,))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes a status or is raised again
            await self.end(context, error)
        else:
            await self.end(context, None)
            return response

    async def stream(self, raw: Any, context: Context) -> AsyncIterator[Any]:
        """Handle a method that answers with a stream."""
        CURRENT.set(self.record)
        try:
            method = self.handler.stream_stream or self.handler.unary_stream
            responses = method(self.request(raw), context)
            if isinstance(responses, Awaitable):  # a method that writes to its context, as the health service does
                await responses
            else:
                headers_sent = False
                async for response in responses:
                    if not headers_sent:
                        await context.send_initial_metadata((self.request_id,))
                        headers_sent = True
                    yield response
        except BaseException as error:  # noqa: BLE001 - whatever it is, it becomes a status or is raised again
            await self.end(context, error)
        else:
            await self.end(context, None)

    def request(self, raw: Any) -> Any:
        """The decoded request, or the iterator over decoded requests."""
        return self.decoded(raw) if self.handler.request_streaming else self.decode(raw)

    async def decoded(self, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Decode the requests of a stream, each when it is asked for."""
        async for message in raw:
            yield self.decode(message)

    def decode(self, raw: bytes) -> Any:
        """Decode one request. Errors: ServiceError (MALFORMED_MESSAGE)."""
        try:
            return self.handler.request_deserializer(raw)
        except (DecodeError, UnicodeDecodeError) as error:
            raise malformed_message() from error

    async def end(self, context: Context, error: BaseException | None) -> None:
        """Set the status that `error` stands for, log the call, and raise where the library has to know."""
        context.set_trailing_metadata((self.request_id,))
        if error is None:
            self.log("OK")
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.log("CANCELLED")
            raise error
        if isinstance(error, grpc.aio.AbortError):
            self.log(context.code().name if isinstance(context.code(), grpc.StatusCode) else "UNKNOWN")
            raise error
        if not isinstance(error, ServiceError):
            LOGGER.error(
                "unhandled exception",
                exc_info=error,
                extra={log.FIELDS: {"method": self.record.method, "request_id": self.record.request_id}},
            )
            error = internal()
        self.log(error.code.name, reason=error.reason)
        await context.abort(error.code, error.message, (self.request_id, details_metadata(error)))

    def log(self, code: str, **fields: str) -> None:
        """Write the call's one log line."""
        quiet = self.record.method.startswith(QUIET_PREFIXES)
        log.event(
            LOGGER,
            logging.DEBUG if quiet else logging.INFO,
            "rpc",
            method=self.record.method,
            code=code,
            duration_ms=round((time.monotonic() - self.started) * 1000, 1),
            request_id=self.record.request_id,
            **fields,
            **self.record.counts,
        )
