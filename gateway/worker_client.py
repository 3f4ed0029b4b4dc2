"""One model worker, from the outside: what it is, whether it is ready, and calls to it.

Rows go out as one left-padded tensor, row events come back as plain values.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.deadline import Deadline
from gateway.generation import Row, RowEvent
from gateway.model_description import describe
from gateway.models import ServedModel
from gateway.row_messages import row_event, start_message
from rpc import log
from rpc.call_record import REQUEST_ID_KEY, current_request_id
from rpc.errors import ServiceError, internal, invalid_field
from rpc.health import READINESS, SERVING
from rpc.status import translated_errors
from rpc.transport import open_channel
from tokenmill.v1 import worker_pb2, worker_pb2_grpc

LOGGER = logging.getLogger("tokenmill.gateway.worker")
PEER = "the model worker"
CAPACITY_EXCEEDED = "CAPACITY_EXCEEDED"  # the worker's reason for a row, or for so many, that it could never hold
ABOUT_THE_WORKER = {"UNKNOWN_MODEL", "VOCABULARY_MISMATCH"}  # it now serves something else than when it was asked
RETRY_SECONDS = 0.5  # between attempts to reach a worker that cannot be watched
DESCRIBE_TIMEOUT_SECONDS = 5.0


class WorkerClient:
    """Owns the channel to one worker and the task that watches its readiness; event loop only.

    `models` are what the worker last said that it serves: its model, then adapters. `is_ready`: it takes calls now.
    """

    def __init__(self, target: str, default_max_new_tokens: int, on_change: Callable[[], None]) -> None:
        self.target = target
        self.models: tuple[ServedModel, ...] = ()  # empty until it was ready once
        self.is_ready = False
        self._on_change = on_change
        self._default_max_new_tokens = default_max_new_tokens
        self._channel = open_channel(target)
        self._stub: Any = worker_pb2_grpc.WorkerServiceStub(self._channel)  # untyped: the stubs know no write()
        self._watching = asyncio.create_task(self._watch_for_ever())

    async def close(self) -> None:
        """Stop watching and close the channel."""
        self._watching.cancel()
        await asyncio.wait({self._watching})
        await self._channel.close(None)

    @asynccontextmanager
    async def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AsyncIterator[WorkerCall]:
        """Send `rows` for one of its models as one tensor; leaving the context ends the call, and with it every row.

        `fingerprint` is of the vocabulary that made the ids. Errors: ServiceError.
        """
        start = worker_pb2.WorkerServiceGenerateRequest(start=start_message(model, rows, fingerprint))
        metadata = ((REQUEST_ID_KEY, current_request_id()),)
        call = self._stub.Generate(metadata=metadata, timeout=deadline.remaining())
        try:
            with _errors_for_the_caller():
                await call.write(start)
            yield WorkerCall(call)
        finally:
            call.cancel()

    async def _watch_for_ever(self) -> None:
        health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=READINESS)
        while True:
            try:
                async for answer in health.Watch(request, wait_for_ready=True):
                    await self._set_ready(ready=answer.status == SERVING)
            except grpc.aio.AioRpcError as error:
                log.event(LOGGER, logging.DEBUG, "worker not watched", target=self.target, code=error.code().name)
            except Exception:  # whatever a worker says of itself, the next one to start there is looked at again
                LOGGER.exception("worker not understood", extra={log.FIELDS: {"target": self.target}})
            await self._set_ready(ready=False)
            await asyncio.sleep(RETRY_SECONDS)

    async def _set_ready(self, *, ready: bool) -> None:
        if ready:
            request = worker_pb2.GetWorkerRequest()
            description = await self._stub.GetWorker(request, timeout=DESCRIBE_TIMEOUT_SECONDS)
            self.models = describe(description, self._default_max_new_tokens)
        if ready != self.is_ready:
            log.event(LOGGER, logging.INFO, "worker ready" if ready else "worker not ready", target=self.target)
        self.is_ready = ready
        self._on_change()


class WorkerCall:
    """One running request at one worker."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def events(self) -> AsyncGenerator[list[RowEvent], None]:
        """What happened to the rows, in groups as they arrived. Errors: ServiceError."""
        with _errors_for_the_caller():
            async for response in self._call:
                yield [row_event(event) for event in response.events]

    async def stop_row(self, row: int) -> None:
        """End one row; the worker answers that it has finished. A call that has ended needs no stop."""
        # What ended the call is for `events` to say.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            stop = worker_pb2.StopRow(row=row)
            await self._call.write(worker_pb2.WorkerServiceGenerateRequest(stop_row=stop))


@contextmanager
def _errors_for_the_caller() -> Iterator[None]:
    """As `translated_errors`; what is wrong with a row is said in terms of the caller's request.

    Only what it serves and how much it holds is known to the worker alone: if it finds anything else wrong, the mistake
    is ours.
    """
    try:
        with translated_errors(PEER):
            yield
    except ServiceError as error:
        if error.field is None or not error.field.startswith("start."):
            raise
        if error.reason in ABOUT_THE_WORKER:
            raise error.without_prefix("start.") from None
        if error.reason != CAPACITY_EXCEEDED:
            log.event(LOGGER, logging.ERROR, "refused by the worker", reason=error.reason, field=error.field)
            raise internal() from None
        message = error.message.removeprefix(f"{error.field}: ")
        field = "n" if error.field == "start.tokens.rows" else "stopping.max_new_tokens"
        raise invalid_field(field, message, reason=error.reason) from None
