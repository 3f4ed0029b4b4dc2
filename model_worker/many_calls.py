"""Many calls over one stream: what their rows have to say after a step leaves in one message.

A gateway reads, and this worker writes, one message per step instead of one per call. A gateway that falls behind says
so by not counting up what it has read: then the worker waits, and what is unread of a row is merged (TokenStream).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from model_worker.batching.row_events import RowEvent
from model_worker.messages import event_messages, named_errors
from model_worker.rows_of_call import Generating, RowsOfCall
from rpc import log
from rpc.call import note_end
from rpc.call_record import REQUEST_ID_KEY, CallRecord, request_id_from
from rpc.errors import ServiceError, deadline_exceeded, internal, invalid_field
from rpc.running_calls import RunningCall, RunningCalls
from rpc.status import to_output_error, to_seconds
from rpc.tracing.calls import rpc_attributes, rpc_name
from rpc.tracing.trace_context import trace_context
from tokenmill.v1 import worker_pb2

LOGGER = logging.getLogger("tokenmill.worker")
METHOD = "/tokenmill.v1.WorkerService/GenerateMany"
MAX_UNREAD_RESPONSES = 4
FULL_RESPONSE_BYTES = 2**20  # what is beyond leaves in the next response


class ManyCalls:
    """The calls of one stream; owned by the task that handles it."""

    def __init__(self, generating: Generating, running: RunningCalls) -> None:
        self._generating = generating
        self._running = running
        self._calls: dict[int, _OneCall] = {}
        self._ready: dict[_OneCall, None] = {}  # those that may have something to say, in order
        self._ended: list[_OneCall] = []  # whose end is being sent
        self._news = asyncio.Event()
        self._is_closed = False  # by the other side: no more requests will come
        self._failure: ServiceError | None = None  # of the stream itself
        self._unread = 0  # responses
        self._sent = 0

    async def listen(self, requests: AsyncIterator[worker_pb2.GenerateManyRequest]) -> None:
        """Carry out `requests` until there are no more."""
        try:
            async for request in requests:
                self._unread = self._sent - request.responses_read
                for one in request.calls:
                    self._carry_out(one)
                self._news.set()
        except ServiceError as error:
            self._failure = error
        except Exception:
            LOGGER.exception("unhandled exception", extra={log.FIELDS: {"method": METHOD}})
            self._failure = internal()
        finally:
            self._is_closed = True
            self._news.set()

    async def responses(self) -> AsyncIterator[worker_pb2.GenerateManyResponse]:
        """What the calls say, until all have ended and no more can begin. Errors: ServiceError, for all of them."""
        while self._failure is None and not (self._is_closed and not self._calls):
            if self._ready and (self._is_closed or self._unread < MAX_UNREAD_RESPONSES):
                response = self._merged()
                if response.calls:
                    self._sent += 1
                    self._unread += 1
                    yield response
                    self._leave_ended()
            else:
                self._news.clear()
                await self._news.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Abort the calls that still run."""
        for call in list(self._calls.values()):
            self._abort(call)
        self._leave_ended()

    def _carry_out(self, request: worker_pb2.CallRequest) -> None:
        """Errors: ServiceError, for the whole stream: only of what no caller does that follows the contract."""
        call = self._calls.get(request.call)
        match request.WhichOneof("message"):
            case "start":
                if call is not None:
                    raise invalid_field("calls.call", "is the number of a call that runs")
                self._begin(request.call, request.start)
            case "stop_row" if call is not None:
                call.stop_row(request.stop_row.row)
            case "cancel" if call is not None:
                self._abort(call)
            case None:
                raise invalid_field("calls.message", "one of start, stop_row and cancel is required")

    def _begin(self, number: int, begin: worker_pb2.StartCall) -> None:
        call = _OneCall(number, begin, self._running)
        self._calls[number] = call
        call.begin(self._generating, begin, lambda: self._hear_of(call))

    def _hear_of(self, call: _OneCall) -> None:
        if self._calls.get(call.number) is call:  # and has not ended, of which its rows are heard too
            self._ready[call] = None
            self._news.set()

    def _abort(self, call: _OneCall) -> None:
        self._forget(call)
        call.end("CANCELLED")
        call.leave()

    def _forget(self, call: _OneCall) -> None:
        del self._calls[call.number]
        self._ready.pop(call, None)

    def _leave_ended(self) -> None:
        """A shutdown waits for calls until their end has been sent, and no longer for the stream."""
        ended, self._ended = self._ended, []
        for call in ended:
            call.leave()

    def _merged(self) -> worker_pb2.GenerateManyResponse:
        response, size = worker_pb2.GenerateManyResponse(), 0
        while self._ready and size < FULL_RESPONSE_BYTES:
            call = next(iter(self._ready))
            del self._ready[call]
            said = call.said()
            if said is None:
                continue
            response.calls.append(said)
            size += said.ByteSize()
            if said.HasField("end"):
                self._forget(call)
                self._ended.append(call)
            elif call.has_failed:
                self._ready[call] = None  # its end comes next
        return response


class _OneCall:
    """One call, until its `end`, which is written to the log."""

    def __init__(self, number: int, begin: worker_pb2.StartCall, running: RunningCalls) -> None:
        self.number = number
        self._record = CallRecord(METHOD, request_id_from([(REQUEST_ID_KEY, begin.request_id)]))
        parent = trace_context(begin.traceparent, begin.tracestate)
        self._record.span = running.tracer.start(rpc_name(METHOD), parent, rpc_attributes(METHOD))
        self._began = time.monotonic()
        self._rows: RowsOfCall | None = None
        self._failure: ServiceError | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._running = running
        self._counted = RunningCall(asyncio.get_running_loop().create_future(), is_work=True)
        running.add(self._counted)

    def begin(self, generating: Generating, begin: worker_pb2.StartCall, on_news: Callable[[], None]) -> None:
        """Submit its rows; `on_news` is called whenever there may be something to say, a refusal for one."""
        try:
            self._rows = RowsOfCall(generating, begin.start, self._record.span)
        except ServiceError as error:
            self._failure = error
        except Exception:  # the others of the stream go on
            fields = {"method": METHOD, **self._record.ids}
            LOGGER.exception("unhandled exception", extra={log.FIELDS: fields})
            self._failure = internal()
        if self._rows is None:
            on_news()
            return
        self._rows.stream.notify(on_news)
        if begin.HasField("timeout"):
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(to_seconds(begin.timeout), self._expire, on_news)

    @property
    def has_failed(self) -> bool:
        """Whether its end is still to be said."""
        return self._rows is not None and self._rows.stream.has_failed

    def stop_row(self, row: int) -> None:
        """End one row."""
        if self._rows is not None:
            self._rows.stop_row(row)

    def said(self) -> worker_pb2.CallResponse | None:
        """What is new, with the end if it is the end; None: nothing."""
        events = self._take()
        response = worker_pb2.CallResponse(call=self.number, events=event_messages(events))
        if self._failure is not None:
            response.end.error.CopyFrom(to_output_error(self._failure))
            response.end.field = self._failure.field or ""
            self.end(self._failure.code.name, reason=self._failure.reason)
        elif self._rows is not None and self._rows.stream.is_over:
            response.end.SetInParent()
            self.end("OK")
        elif not events:
            return None
        return response

    def _take(self) -> Sequence[RowEvent]:
        if self._failure is not None or self._rows is None:
            return ()
        try:
            with named_errors():
                events = self._rows.stream.take()
        except ServiceError as error:
            self._failure = error
            return ()
        told, self._failure = self._rows.told(events)
        return told

    def end(self, code: str, reason: str = "") -> None:
        """Free what it holds."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._rows is not None:
            self._rows.cancel()
            self._record.counts.update(self._rows.counts)
        reasons = {"reason": reason} if reason else {}
        seconds = time.monotonic() - self._began
        note_end(self._running.metrics, self._record, seconds, code, fields=reasons)

    def leave(self) -> None:
        """Count no more as running."""
        self._running.discard(self._counted)
        if not self._counted.task.done():
            self._counted.task.set_result(None)

    def _expire(self, on_news: Callable[[], None]) -> None:
        self._failure = deadline_exceeded()
        on_news()
