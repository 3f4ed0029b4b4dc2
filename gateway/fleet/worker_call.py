"""One running request at one worker: rows out as one left-padded tensor, row events back as plain values."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from gateway.generation import RowEvent
from gateway.row_messages import row_event
from rpc import log
from rpc.errors import ServiceError, deadline_exceeded, internal, invalid_field
from rpc.status import from_output_error
from tokenmill.v1 import worker_pb2

LOGGER = logging.getLogger("tokenmill.gateway.worker")
CAPACITY_EXCEEDED = "CAPACITY_EXCEEDED"  # the worker's reason for a row, or for so many, that it could never hold
ABOUT_THE_WORKER = frozenset({"UNKNOWN_MODEL", "VOCABULARY_MISMATCH"})  # it now serves something else than when asked


class WorkerCall:
    """Owned by the request; the worker's session tells it what it hears, and may make it fail."""

    def __init__(
        self,
        number: int,
        timeout_seconds: float | None,
        ask: Callable[[worker_pb2.CallRequest], None],
        forget: Callable[[WorkerCall], None],
    ) -> None:
        self.number = number
        self.has_begun = False  # the worker has said something
        self._ask = ask
        self._forget = forget
        self._heard: list[worker_pb2.CallResponse] = []
        self._failure: ServiceError | None = None
        self._news = asyncio.Event()
        self._is_over = False  # at the worker
        self._expiry: asyncio.TimerHandle | None = None
        if timeout_seconds is not None:
            self._expiry = asyncio.get_running_loop().call_later(timeout_seconds, self._expire)

    async def events(self) -> AsyncGenerator[Sequence[RowEvent], None]:
        """What happened to the rows, in groups as they arrived. Errors: ServiceError."""
        while not self._is_over:
            self._news.clear()
            heard, self._heard = self._heard, []
            if not heard:
                if self._failure is not None:
                    raise self._failure
                await self._news.wait()
            for said in heard:
                self._is_over = said.HasField("end")
                if said.events:
                    yield [row_event(event) for event in said.events]
                if said.end.HasField("error"):
                    raise for_the_caller(from_output_error(said.end.error, said.end.field))

    async def stop_row(self, row: int) -> None:
        """End one row; the worker answers that it has finished. A call that has ended needs no stop."""
        self._ask(worker_pb2.CallRequest(call=self.number, stop_row=worker_pb2.StopRow(row=row)))

    def hear(self, said: worker_pb2.CallResponse) -> None:
        """Take what the worker said."""
        self.has_begun = True
        self._heard.append(said)
        self._news.set()

    def fail(self, why: ServiceError) -> None:
        """Let `events` raise `why` after what was heard; the first failure holds."""
        self._failure = self._failure or why
        self._news.set()

    def end(self) -> None:
        """Abort the rows that have not ended."""
        if self._expiry is not None:
            self._expiry.cancel()
        if not self._is_over:
            self._ask(worker_pb2.CallRequest(call=self.number, cancel=True))
        self._forget(self)

    def _expire(self) -> None:
        self.fail(deadline_exceeded())


def for_the_caller(error: ServiceError) -> ServiceError:
    """The error of a worker, in terms of the caller's request.

    Only what it serves and how much it holds is known to the worker alone: if it finds anything else wrong, the mistake
    is ours.
    """
    if error.field is None or not error.field.startswith("start."):
        return error
    if error.reason in ABOUT_THE_WORKER:
        return error.without_prefix("start.")
    if error.reason != CAPACITY_EXCEEDED:
        log.event(LOGGER, logging.ERROR, "refused by the worker", reason=error.reason, field=error.field)
        return internal()
    message = error.message.removeprefix(f"{error.field}: ")
    field = "n" if error.field == "start.tokens.rows" else "stopping.max_new_tokens"
    return invalid_field(field, message, reason=error.reason)
