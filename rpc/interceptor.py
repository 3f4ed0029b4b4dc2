"""The outermost interceptor: wraps every method of a server, those of health and reflection included, into a `Call`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from rpc.call import Call, Context, Handler
from rpc.call_record import CallRecord, request_id_from
from rpc.errors import unknown_method
from rpc.running_calls import RunningCalls


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Makes the calls of one server; `running` are those that have not ended."""

    def __init__(self) -> None:
        self.running = RunningCalls()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler with ours around it."""
        found = await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata or ()
        # The name of a method that we do not have is the caller's text, which has no place in a log.
        method = handler_call_details.method if found else "unknown"
        handler = found or UNKNOWN_METHOD
        record = CallRecord(method, request_id_from(metadata))
        call = Call(handler, record, self.running)
        if handler.response_streaming:
            make = _STREAM_STREAM if handler.request_streaming else _UNARY_STREAM
            return make(call.stream)
        make = _STREAM_UNARY if handler.request_streaming else _UNARY_UNARY
        return make(call.unary)


def _refuse(_requests: AsyncIterator[Any], _context: Context) -> AsyncGenerator[Any]:
    raise unknown_method()


# Bound to short names of our own type: the library's types are those of synchronous handlers.
_UNARY_UNARY: Handler = grpc.unary_unary_rpc_method_handler
_UNARY_STREAM: Handler = grpc.unary_stream_rpc_method_handler
_STREAM_UNARY: Handler = grpc.stream_unary_rpc_method_handler
_STREAM_STREAM: Handler = grpc.stream_stream_rpc_method_handler
UNKNOWN_METHOD: Handler = _STREAM_STREAM(_refuse)
