"""The outermost interceptor: wraps every method of a server, those of health and reflection included, into a `Call`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from rpc.call import Call, Context, Handler
from rpc.call_record import CallRecord, request_id_from
from rpc.errors import ServiceError, unknown_method
from rpc.running_calls import RunningCalls
from rpc.tls.peers import AcceptedPeers
from rpc.tracing.calls import rpc_attributes, rpc_name
from rpc.tracing.trace_context import trace_context_from

OPEN_PREFIX = "/grpc.health."
Metadata = Iterable[tuple[str, str | bytes]]


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Makes the calls of one server; `running` are those that have not ended.

    Everybody may ask for health. Whatever else is called, a service that knows its callers is asked first
    (`check_caller`), before the request is read, and so are the `peers` that TLS has let in.
    """

    def __init__(
        self,
        check_caller: Callable[[Metadata], None] | None = None,
        peers: AcceptedPeers | None = None,
        running: RunningCalls | None = None,
    ) -> None:
        self.running = running or RunningCalls()
        self._check_caller = check_caller
        self._peers = peers

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
        peers = None if method.startswith(OPEN_PREFIX) else self._peers
        if not method.startswith(OPEN_PREFIX) and (refusal := self._refusal(metadata)):
            handler = _refusing(lambda: refusal)
        call = Call(handler, record, self.running, peers)
        if call.is_work:
            parent = trace_context_from(metadata)
            record.span = self.running.tracer.start(rpc_name(method), parent, rpc_attributes(method))
        if handler.response_streaming:
            make = _STREAM_STREAM if handler.request_streaming else _UNARY_STREAM
            return make(call.stream)
        make = _STREAM_UNARY if handler.request_streaming else _UNARY_UNARY
        return make(call.unary)

    def _refusal(self, metadata: Metadata) -> ServiceError | None:
        """What the service has against the caller."""
        if self._check_caller is not None:
            try:
                self._check_caller(metadata)
            except ServiceError as error:
                return error
        return None


def _refusing(make_error: Callable[[], ServiceError]) -> Handler:
    """What answers calls with an error, of whatever shape they are, without reading their requests."""

    def refuse(_requests: AsyncIterator[Any], _context: Context) -> AsyncGenerator[Any]:
        raise make_error()

    return _STREAM_STREAM(refuse)


# Bound to short names of our own type: the library's types are those of synchronous handlers.
_UNARY_UNARY: Handler = grpc.unary_unary_rpc_method_handler
_UNARY_STREAM: Handler = grpc.unary_stream_rpc_method_handler
_STREAM_UNARY: Handler = grpc.stream_unary_rpc_method_handler
_STREAM_STREAM: Handler = grpc.stream_stream_rpc_method_handler
UNKNOWN_METHOD: Handler = _refusing(unknown_method)
