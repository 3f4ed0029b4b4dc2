"""WorkerService: tensors in, row events out. What happens in between is the generation loop's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from model_worker.loading.load_progress import LoadProgress
from model_worker.many_calls import ManyCalls
from model_worker.messages import event_messages, load_report, named_errors
from model_worker.rows_of_call import Generating, RowsOfCall
from rpc.call_record import count_tokens, current_span
from rpc.errors import ServiceError, invalid_field, unavailable
from rpc.running_calls import CURRENT_CALLS
from tokenmill.v1 import worker_pb2, worker_pb2_grpc

MAX_REPORT_SECONDS = 1.0
MIN_REPORT_SECONDS = 0.05

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Answers once `generating` is set; before that, only who it is and how far loading has come."""

    def __init__(self, identity: worker_pb2.GetWorkerResponse) -> None:
        self.generating: Generating | None = None
        self.progress: LoadProgress | None = None
        self.identity = identity

    async def GetWorker(self, request: worker_pb2.GetWorkerRequest, context: Context) -> worker_pb2.GetWorkerResponse:
        """What this worker is."""
        answer = worker_pb2.GetWorkerResponse()
        answer.CopyFrom(self.generating.description if self.generating else self.identity)
        if self.progress is not None:
            answer.progress.stage = self.progress.stage
            answer.progress.fraction = self.progress.fraction
        return answer

    async def Generate(
        self, request_iterator: AsyncIterator[worker_pb2.WorkerServiceGenerateRequest], context: Context
    ) -> AsyncIterator[worker_pb2.WorkerServiceGenerateResponse]:
        """Generate for the rows of one tensor; leaving this generator, in whatever way, frees them."""
        generating = self._generating()
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("start"):
            raise invalid_field("message", "the first message must be start")
        rows = RowsOfCall(generating, first.start, current_span())
        stopping = asyncio.create_task(_take_stops(request_iterator, rows))
        try:
            with named_errors():
                async for events in rows.stream:
                    told, failure = rows.told(events)
                    if told:
                        yield worker_pb2.WorkerServiceGenerateResponse(events=event_messages(told))
                    if failure is not None:
                        raise failure
        except ServiceError:
            if stopping.done() and not stopping.cancelled() and (mistake := stopping.exception()):
                raise mistake from None  # a message that is no stop_row gave the request up
            raise
        finally:
            rows.cancel()
            stopping.cancel()
            count_tokens(**rows.counts)

    async def GenerateMany(
        self, request_iterator: AsyncIterator[worker_pb2.GenerateManyRequest], context: Context
    ) -> AsyncIterator[worker_pb2.GenerateManyResponse]:
        """Many such calls; leaving this generator, in whatever way, frees the rows of them all."""
        calls = ManyCalls(self._generating(), CURRENT_CALLS.get())
        listening = asyncio.create_task(calls.listen(request_iterator))
        try:
            async for response in calls.responses():
                yield response
        finally:
            listening.cancel()
            calls.close()

    async def WatchLoad(
        self, request: worker_pb2.WatchLoadRequest, context: Context
    ) -> AsyncIterator[worker_pb2.WatchLoadResponse]:
        """The load: at once, then on change, at least every second, at most every 50 ms."""
        generating = self._generating()
        load = generating.loop.snapshot()
        while True:
            report = load_report(load, self.identity.instance_id, time.monotonic())
            yield worker_pb2.WatchLoadResponse(load=report)
            await asyncio.sleep(MIN_REPORT_SECONDS)
            try:
                async with asyncio.timeout(MAX_REPORT_SECONDS - MIN_REPORT_SECONDS):
                    load = await generating.loop.load_changed(load)
            except TimeoutError:
                load = generating.loop.snapshot()

    def _generating(self) -> Generating:
        if self.generating is None:
            raise unavailable("LOADING", "the model worker is still loading")
        return self.generating


async def _take_stops(requests: AsyncIterator[worker_pb2.WorkerServiceGenerateRequest], rows: RowsOfCall) -> None:
    """Carry out the stops of a running request; any other message ends it. Errors: ServiceError."""
    try:
        async for request in requests:
            if not request.HasField("stop_row"):
                raise invalid_field("message", "after start, only stop_row may follow")
            rows.stop_row(request.stop_row.row)
    except Exception:
        rows.cancel()
        raise
