"""All workers: which models they serve, and which of them takes the next request (round robin over the ready ones)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from gateway.deadline import Deadline
from gateway.generation import Row
from gateway.models import ServedModel
from gateway.worker_client import WorkerCall, WorkerClient
from rpc.errors import invalid_field, unavailable, unknown_model, vocabulary_mismatch


class WorkerPool:
    """Owns the worker clients; event loop only."""

    def __init__(self, targets: Sequence[str], default_max_new_tokens: int) -> None:
        self._changed = asyncio.Event()
        self._turn = itertools.count()
        self._workers = [WorkerClient(target, default_max_new_tokens, self._on_change) for target in targets]

    async def close(self) -> None:
        """Close every client."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    async def wait_for_change(self) -> None:
        """Return at the next moment in which a worker becomes ready, or is no longer."""
        await self._changed.wait()

    def _on_change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def ready_models(self) -> list[ServedModel]:
        """What the ready workers serve, one entry for each model or adapter of each worker."""
        return [model for worker in self._workers if worker.is_ready for model in worker.models]

    def models(self) -> list[ServedModel]:
        """Every model and adapter that a worker has served, sorted by name.

        A worker that is down for now does not end a model. Where workers describe a model of one name differently, a
        ready one is believed.
        """
        described = {model.name: model for worker in self._workers for model in worker.models}
        described |= {model.name: model for model in reversed(self.ready_models())}
        return [described[name] for name in sorted(described)]

    def find(self, name: str) -> ServedModel:
        """The model or adapter called `name`; empty: the only model, adapters aside.

        Errors: ServiceError (NOT_FOUND; INVALID_ARGUMENT for an empty name among several; UNAVAILABLE).
        """
        models = self.models()
        if not models:
            raise unavailable("NO_WORKER", "no model worker has been ready yet")
        found = [model for model in models if (model.name == name if name else not model.is_adapter)]
        if len(found) > 1:
            names = ", ".join(model.name for model in models)
            raise invalid_field("model", f"must be one of {names}: several models are served here")
        if not found:
            raise unknown_model(name)
        return found[0]

    def ready_workers(self, model: ServedModel) -> int:
        """How many workers take requests for `model` now."""
        return sum(ready.name == model.name for ready in self.ready_models())

    def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AbstractAsyncContextManager[WorkerCall]:
        """Send `rows` to the worker whose turn it is, of those that share the vocabulary `fingerprint` of the ids.

        Errors: ServiceError (UNAVAILABLE if no worker is ready, FAILED_PRECONDITION if none has the vocabulary).
        """
        ready = [
            (worker, served)
            for worker in self._workers
            if worker.is_ready
            for served in worker.models
            if (served.name, served.base) == (model.name, model.base)
        ]
        if not ready:
            raise unavailable("NO_WORKER", f"no worker of model {model.name!r} is ready")
        fitting = [(worker, served) for worker, served in ready if served.vocabulary_fingerprint == fingerprint]
        if not fitting:
            raise vocabulary_mismatch(None)
        worker, served = fitting[next(self._turn) % len(fitting)]
        return worker.open(served, rows, fingerprint, deadline)
