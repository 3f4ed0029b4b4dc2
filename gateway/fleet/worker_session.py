"""One stream to a worker that carries all calls to it: the worker's news of them all come in one message per step."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

import grpc

from gateway.deadline import Deadline
from gateway.fleet.worker_call import WorkerCall
from rpc.call_record import current_request_id
from rpc.errors import ServiceError, unavailable
from rpc.status import to_duration, translated_errors
from rpc.tracing.trace_context import TraceContext
from tokenmill.v1 import worker_pb2

PEER = "the model worker"
# The worker stops at four responses that we have not told it we have read.
TELL_READ_AFTER = 2
# What a first token takes from here to its caller, in two messages. Behind those of 16 other calls it would be 4 ms.
HEAD_START_SECONDS = 0.001
FULL_REQUEST_BYTES = 2**20  # what is beyond leaves in the next request


class WorkerSession:
    """Owned by the worker's client; event loop only. Once `is_over`, the next call needs another one."""

    def __init__(self, stub: Any, on_idle: Callable[[], None]) -> None:
        self._rpc = stub.GenerateMany()
        self._on_idle = on_idle
        self._calls: dict[int, WorkerCall] = {}
        self._numbers = itertools.count(1)
        self._unsent: deque[worker_pb2.CallRequest] = deque()
        self._wanted = asyncio.Event()  # something is to be sent
        self._read = self._told_read = 0  # responses
        self._failure: ServiceError | None = None
        # Not as a part of the call that happens to be the first.
        self._sending = asyncio.create_task(self._send(), context=Context())
        self._hearing = asyncio.create_task(self._hear(), context=Context())

    @property
    def is_over(self) -> bool:
        """Whether it carries no calls any more."""
        return self._failure is not None

    @property
    def calls(self) -> int:
        """How many run."""
        return len(self._calls)

    def begin(self, start: worker_pb2.Start, deadline: Deadline, trace: TraceContext | None = None) -> WorkerCall:
        """Begin a call, which is to be ended (`WorkerCall.end`). Precondition: not over."""
        number = next(self._numbers)
        begin = worker_pb2.StartCall(start=start, request_id=current_request_id())
        if trace is not None:
            begin.traceparent, begin.tracestate = trace.parent, trace.state
        remaining = deadline.remaining()
        if remaining is not None:
            begin.timeout.CopyFrom(to_duration(remaining))
        call = WorkerCall(number, remaining, self._ask, self._forget)
        self._calls[number] = call
        self._ask(worker_pb2.CallRequest(call=number, start=begin))
        return call

    def give_up(self, why: ServiceError) -> None:
        """End every call with `why`, and the stream."""
        self._end(why)
        self._rpc.cancel()

    async def close(self) -> None:
        """End what is left."""
        self.give_up(unavailable("WORKER_LOST", "the model worker was left"))
        self._hearing.cancel()
        await asyncio.wait({self._sending, self._hearing})

    def _ask(self, request: worker_pb2.CallRequest) -> None:
        if not self.is_over:
            self._unsent.append(request)
            self._wanted.set()

    def _forget(self, call: WorkerCall) -> None:
        self._calls.pop(call.number, None)
        if not self._calls:
            self._on_idle()

    async def _send(self) -> None:
        # What ends the stream is for `_hear` to say.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._unsent or self._read - self._told_read >= TELL_READ_AFTER:
                    await self._rpc.write(self._next_request())

    def _next_request(self) -> worker_pb2.GenerateManyRequest:
        self._told_read = self._read
        request, size = worker_pb2.GenerateManyRequest(responses_read=self._read), 0
        while self._unsent and size < FULL_REQUEST_BYTES:
            one = self._unsent.popleft()
            request.calls.append(one)
            size += one.ByteSize()
        return request

    async def _hear(self) -> None:
        try:
            with translated_errors(PEER):
                async for response in self._rpc:
                    self._read += 1
                    self._wanted.set()
                    await self._tell(response)
            self._end(unavailable("WORKER_LOST", "the model worker ended the stream of its calls"))
        except ServiceError as error:
            self._end(error)
        finally:
            self._end(unavailable("WORKER_LOST", "the model worker is no longer heard"))  # unless it has ended before

    async def _tell(self, response: worker_pb2.GenerateManyResponse) -> None:
        """Each call its own; the first words of a call are on their way before those of calls that have begun."""
        waiting = []
        for said in response.calls:
            call = self._calls.get(said.call)
            if call is not None and call.has_begun:
                waiting.append(said)
            elif call is not None:
                call.hear(said)
        if 0 < len(waiting) < len(response.calls):
            await asyncio.sleep(HEAD_START_SECONDS)
        for said in waiting:
            if call := self._calls.get(said.call):
                call.hear(said)

    def _end(self, failure: ServiceError) -> None:
        self._failure = self._failure or failure
        for call in list(self._calls.values()):
            call.fail(self._failure)
        self._unsent.clear()
        self._sending.cancel()
