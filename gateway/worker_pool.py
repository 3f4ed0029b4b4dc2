"""All workers: which models they serve, and which of them takes the next request (round robin over the ready ones)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from gateway.deadline import Deadline
from gateway.generation import Row
from gateway.model_description import describe
from gateway.models import ServedModel
from gateway.worker_client import WorkerCall, WorkerClient
from rpc.errors import invalid_field, unavailable, unknown_model


class WorkerPool:
    """Owns the worker clients; event loop only."""

    def __init__(self, targets: Sequence[str], default_max_new_tokens: int) -> None:
        self._default_max_new_tokens = default_max_new_tokens
        self._changed = asyncio.Event()
        self._turn = itertools.count()
        self._workers = [WorkerClient(target, self._changed.set) for target in targets]

    async def close(self) -> None:
        """Close every client."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    async def wait_for_model(self) -> ServedModel:
        """The first model that a worker is ready to serve, as soon as there is one."""
        while not any(worker.is_ready for worker in self._workers):
            self._changed.clear()
            await self._changed.wait()
        return self.models()[0]

    def models(self) -> list[ServedModel]:
        """Every model that a worker has served, sorted by name; a worker that is down for now does not end a model."""
        described = {
            worker.description.model: worker.description for worker in self._workers if worker.description is not None
        }
        return [describe(described[name], self._default_max_new_tokens) for name in sorted(described)]

    def find(self, name: str) -> ServedModel:
        """The model called `name`; empty: the only one.

        Errors: ServiceError (NOT_FOUND; INVALID_ARGUMENT for an empty name among several; UNAVAILABLE).
        """
        models = self.models()
        if not models:
            raise unavailable("NO_WORKER", "no model worker has been ready yet")
        if not name and len(models) > 1:
            names = ", ".join(model.name for model in models)
            raise invalid_field("model", f"must be one of {names}: several models are served here")
        for model in models:
            if name in {"", model.name}:
                return model
        raise unknown_model(name)

    def ready_workers(self, model: ServedModel) -> int:
        """How many workers take requests for `model` now."""
        return len(self._ready(model))

    def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AbstractAsyncContextManager[WorkerCall]:
        """Send `rows` to the worker whose turn it is. Errors: ServiceError (UNAVAILABLE if none is ready)."""
        ready = self._ready(model)
        if not ready:
            raise unavailable("NO_WORKER", f"no worker of model {model.name!r} is ready")
        return ready[next(self._turn) % len(ready)].open(rows, fingerprint, deadline)

    def _ready(self, model: ServedModel) -> list[WorkerClient]:
        return [
            worker
            for worker in self._workers
            if worker.is_ready and worker.description is not None and worker.description.model == model.name
        ]
