"""One model worker, from the outside: what it is, whether it takes calls, how busy it is, and calls to it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from gateway.deadline import Deadline
from gateway.fleet.breaker import Breaker
from gateway.fleet.choice import Candidate
from gateway.fleet.watching import LEAVE_SECONDS, for_ever, readiness
from gateway.fleet.worker_call import WorkerCall
from gateway.fleet.worker_load import Report, WorkerLoad
from gateway.fleet.worker_session import WorkerSession
from gateway.fleet.worker_state import WorkerState
from gateway.generation import Row
from gateway.model_description import describe
from gateway.models import Capacity, ServedModel
from gateway.row_messages import start_message
from rpc import log
from rpc.call_record import current_span
from rpc.errors import unavailable
from rpc.tls.client import ClientTls
from rpc.tracing.calls import rpc_attributes, rpc_name
from rpc.tracing.span import Attributes, Kind, part_of
from rpc.transport import open_channel
from tokenmill.v1 import worker_pb2, worker_pb2_grpc

LOGGER = logging.getLogger("tokenmill.gateway.worker")
DESCRIBE_TIMEOUT_SECONDS = 5.0
GENERATE = "/tokenmill.v1.WorkerService/GenerateMany"


class WorkerClient:
    """Owns the channel to one worker and the tasks that watch it; event loop only.

    `models` are what the worker last said that it serves: its model, then adapters. A worker that comes back with
    another instance id is another worker: its load and its failures are its own.
    """

    def __init__(
        self,
        target: str,
        default_max_new_tokens: int,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        tls: ClientTls | None = None,
    ) -> None:
        self.target = target
        self.instance_id = ""
        self.is_leaving = False  # it gets nothing new if there is another one
        self.models: tuple[ServedModel, ...] = ()  # empty until it was ready once
        self.load = WorkerLoad(clock)
        self.breaker = Breaker(clock)
        self._on_change = on_change
        self._default_max_new_tokens = default_max_new_tokens
        self._clock = clock
        self._max_rows = 0
        self._kv_tokens = 0
        self._is_serving = False
        self._is_lost = False
        self._session: WorkerSession | None = None
        self._idle = asyncio.Event()  # no calls
        self._idle.set()
        self._channel = open_channel(target, tls)
        self._stub: Any = worker_pb2_grpc.WorkerServiceStub(self._channel)  # untyped: the stubs know no write()
        watches = (self._readiness, self._reports)
        self._watching = [asyncio.create_task(for_ever(watch, target)) for watch in watches]

    @property
    def is_ready(self) -> bool:
        """Whether it says that it takes calls, and is heard of."""
        return self._is_serving and not self._is_lost

    @property
    def capacity(self) -> Capacity:
        """What it holds at once."""
        return Capacity(1, self._max_rows, self._kv_tokens)

    def state(self) -> WorkerState:
        """For people."""
        report = self.load.report
        return WorkerState(
            id=self.instance_id,
            ready=self.is_ready,
            refused=False,  # as far as it can tell by itself
            models=tuple(model.name for model in self.models),
            running=report.running,
            waiting=report.waiting,
            max_rows=self._max_rows,
            kv_tokens_used=report.kv_tokens_used,
            kv_tokens_total=report.kv_tokens_total,
        )

    def described(self) -> dict[str, object]:
        """For whoever operates the gateway: what people are shown, and where it is and how it fares."""
        own = {"target": self.target, "breaker": self.breaker.state, "lost": self._is_lost, "leaving": self.is_leaving}
        return {**own, "calls": self._running_calls, **dataclasses.asdict(self.state())}

    def candidate(self, cached_tokens: int) -> Candidate:
        """What the choice of a worker looks at, for a request of whose prompts it has computed so much before."""
        report = self.load.report
        free_kv_tokens = report.kv_tokens_total - report.kv_tokens_used
        return Candidate(self.load.work, self._max_rows, free_kv_tokens, cached_tokens)

    def check(self) -> None:
        """Give its calls up if it is silent or stuck, to be called now and then; take it back when it is not."""
        if self._is_serving or self._running_calls:  # one that drains has calls, and may freeze all the same
            self._set_lost(is_lost=self.load.is_silent() or self.load.is_stuck())

    async def leave(self) -> None:
        """Wait a little, and until its calls have ended, then close. It is still watched meanwhile."""
        self.is_leaving = True
        try:
            await asyncio.sleep(LEAVE_SECONDS)
            await self._idle.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop watching and close the channel."""
        for task in self._watching:
            task.cancel()
        await asyncio.wait(self._watching)
        if self._session is not None:
            await self._session.close()
        await self._channel.close(None)

    @asynccontextmanager
    async def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AsyncIterator[WorkerCall]:
        """Send `rows` for one of its models as one tensor; leaving the context ends the call, and with it every row.

        `fingerprint` is of the vocabulary that made the ids. Errors: ServiceError.
        """
        if self._session is None or self._session.is_over:
            self._session = WorkerSession(self._stub, self._on_idle)
        with part_of(current_span(), rpc_name(GENERATE), Kind.CLIENT, _attributes(rows)) as span:
            call = self._session.begin(start_message(model, rows, fingerprint), deadline, span.context)
            self._idle.clear()
            try:
                yield call
            finally:
                call.end()

    @property
    def _running_calls(self) -> int:
        return self._session.calls if self._session is not None else 0

    def _on_idle(self) -> None:
        if not self._running_calls:  # it may be of a session that has ended that the last call has
            self._idle.set()

    async def _readiness(self) -> None:
        try:
            async with aclosing(readiness(self._channel)) as states:
                async for is_serving in states:
                    await self._set_serving(is_serving=is_serving)
        finally:
            await self._set_serving(is_serving=False)

    async def _reports(self) -> None:
        async for response in self._stub.WatchLoad(worker_pb2.WatchLoadRequest(), wait_for_ready=True):
            await self._hear(response.load)

    async def _hear(self, load: worker_pb2.LoadReport) -> None:
        if load.instance_id != self.instance_id:
            if not self._is_serving:
                return  # it is described first, when it is ready
            await self._describe()
        report = Report(
            running=load.running,
            waiting=load.waiting,
            queued_prompt_tokens=load.queued_prompt_tokens,
            kv_tokens_used=load.kv_tokens_used,
            kv_tokens_total=load.kv_tokens_total,
            step=load.step,
        )
        self.load.hear(report)
        self.check()

    async def _set_serving(self, *, is_serving: bool) -> None:
        if is_serving:
            await self._describe()
        if is_serving != self._is_serving:
            log.event(LOGGER, logging.INFO, "worker ready" if is_serving else "worker not ready", target=self.target)
        self._is_serving = is_serving
        self._on_change()

    async def _describe(self) -> None:
        request = worker_pb2.GetWorkerRequest()
        description = await self._stub.GetWorker(request, timeout=DESCRIBE_TIMEOUT_SECONDS)
        if description.instance_id != self.instance_id:
            self.instance_id = description.instance_id
            self.load, self.breaker = WorkerLoad(self._clock), Breaker(self._clock)
            self._is_lost = False
        self.models = describe(description, self._default_max_new_tokens)
        self._max_rows = description.max_num_seqs
        self._kv_tokens = description.kv_capacity_tokens

    def _set_lost(self, *, is_lost: bool) -> None:
        if is_lost == self._is_lost:
            return
        self._is_lost = is_lost
        if is_lost:
            why = "silent" if self.load.is_silent() else "stuck"
            log.event(LOGGER, logging.ERROR, "worker lost", target=self.target, why=why, calls=self._running_calls)
            if self._session is not None:
                self._session.give_up(unavailable("WORKER_LOST", "the model worker no longer answers"))
        else:
            log.event(LOGGER, logging.INFO, "worker found again", target=self.target)
        self._on_change()


def _attributes(rows: Sequence[Row]) -> Attributes:
    replayed = sum(row.generated_prefix for row in rows)
    return {**rpc_attributes(GENERATE), "tokenmill.rows": len(rows), "tokenmill.replayed_tokens": replayed}
