"""One running request at one worker: rows out as one left-padded tensor, row events back as plain values."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from gateway.generation import RowEvent
from gateway.row_messages import row_event
from rpc import log
from rpc.errors import ServiceError, internal, invalid_field
from rpc.status import translated_errors
from tokenmill.v1 import worker_pb2

LOGGER = logging.getLogger("tokenmill.gateway.worker")
PEER = "the model worker"
CAPACITY_EXCEEDED = "CAPACITY_EXCEEDED"  # the worker's reason for a row, or for so many, that it could never hold
ABOUT_THE_WORKER = frozenset({"UNKNOWN_MODEL", "VOCABULARY_MISMATCH"})  # it now serves something else than when asked


class WorkerCall:
    """Owned by the request; the worker's client may give it up."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._given_up: ServiceError | None = None

    async def events(self) -> AsyncGenerator[Sequence[RowEvent], None]:
        """What happened to the rows, in groups as they arrived. Errors: ServiceError."""
        try:
            with errors_for_the_caller():
                async for response in self._call:
                    yield [row_event(event) for event in response.events]
        except (ServiceError, asyncio.CancelledError) as error:
            if self._given_up is None or _is_cancelled():
                raise
            raise self._given_up from error

    async def stop_row(self, row: int) -> None:
        """End one row; the worker answers that it has finished. A call that has ended needs no stop."""
        # What ended the call is for `events` to say.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            stop = worker_pb2.StopRow(row=row)
            await self._call.write(worker_pb2.WorkerServiceGenerateRequest(stop_row=stop))

    def give_up(self, why: ServiceError) -> None:
        """End the call at once: its `events` raise `why`."""
        self._given_up = why
        self._call.cancel()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@contextmanager
def errors_for_the_caller() -> Iterator[None]:
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
