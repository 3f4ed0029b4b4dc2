"""The rows of one call while they are generated, as the contract sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model_worker.batching.generation_loop import GenerationLoop
from model_worker.batching.row_events import FailedEvent, FinishedEvent, RowEvent
from model_worker.messages import named_errors, row_error
from model_worker.metrics import WorkerMetrics
from model_worker.phases import Phases
from model_worker.row_requests import ServedModel, rows_from
from rpc.errors import ServiceError
from rpc.tracing.span import Span
from tokenmill.v1 import worker_pb2


@dataclass(frozen=True, slots=True)
class Generating:
    """What a loaded worker generates with."""

    loop: GenerationLoop
    model: ServedModel
    description: worker_pb2.GetWorkerResponse
    metrics: WorkerMetrics


class RowsOfCall:
    """Owned by the call; `cancel` frees them, in whatever way it ends."""

    def __init__(self, generating: Generating, start: worker_pb2.Start, span: Span) -> None:
        """Submit the rows of `start`. `span`: the call's. Errors: ServiceError; then nothing was."""
        rows = rows_from(start, generating.model)
        self._loop = generating.loop
        with named_errors():
            self.stream = self._loop.submit(rows)
        self._phases = Phases(span)
        self._metrics = generating.metrics
        self._metrics.ship(start.tokens.rows * start.tokens.width, sum(len(ids) for ids, _ in rows))
        self._is_single = len(rows) == 1
        self.counts = dict.fromkeys(("prompt_tokens", "completion_tokens"), 0)  # of the rows that have ended

    def told(self, events: Sequence[RowEvent]) -> tuple[Sequence[RowEvent], ServiceError | None]:
        """Count `events`, and what of them to say as an event: the failure of a single row is the call's."""
        self._metrics.hear(events)
        for event in events:
            if isinstance(event, FinishedEvent):
                self._phases.tell(event)
                self.counts["prompt_tokens"] += event.usage.prompt_tokens
                self.counts["completion_tokens"] += event.usage.completion_tokens
        if self._is_single and events and isinstance(last := events[-1], FailedEvent):
            return events[:-1], row_error(last)
        return events, None

    def stop_row(self, row: int) -> None:
        """End one row; the others go on."""
        self._loop.stop_row(self.stream, row)

    def cancel(self) -> None:
        """Forget the rows."""
        self._loop.cancel(self.stream)
