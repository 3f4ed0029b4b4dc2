"""All workers: which models they serve, and which of them takes a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from gateway.deadline import Deadline
from gateway.fleet.affinity import PrefixAffinity, PromptKey
from gateway.fleet.choice import choose
from gateway.fleet.failover import Asked, Failover
from gateway.fleet.retry_budget import RetryBudget
from gateway.fleet.targets import Source, Targets
from gateway.fleet.worker_client import WorkerClient
from gateway.fleet.worker_load import Work
from gateway.generation import Row
from gateway.models import Capacity, ServedModel
from rpc.errors import invalid_field, unavailable, unknown_model, vocabulary_mismatch

NOTICE_SECONDS = 0.05  # until a broken connection has ended the watch of readiness too
ROOM_SECONDS = 0.2  # until a full worker is asked again: no report says that its queue has room
CHECK_SECONDS = 0.5  # between looks at whether workers are still heard of


class WorkerPool:
    """Owns the worker clients; event loop only."""

    def __init__(
        self,
        sources: Sequence[Source],
        default_max_new_tokens: int,
        failover_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A request that has lost its worker waits `failover_seconds` for another one, if there is none."""
        self._changed = asyncio.Event()
        self._default_max_new_tokens = default_max_new_tokens
        self._clock = clock
        self._failover_seconds = failover_seconds
        self._budget = RetryBudget()
        self._affinity = PrefixAffinity()
        self._random = random.Random()  # noqa: S311 - who takes a request is no secret
        self._clients: dict[str, WorkerClient] = {}  # by target
        self._leaving: dict[asyncio.Task[None], WorkerClient] = {}
        targets = Targets(sources, self._set_targets)
        self._watching = [asyncio.create_task(targets.watch()), asyncio.create_task(self._check_for_ever())]

    async def close(self) -> None:
        """Close every client."""
        for task in (*self._watching, *self._leaving):
            task.cancel()
        await asyncio.wait((*self._watching, *self._leaving))
        await asyncio.gather(*(worker.close() for worker in self._clients.values()))

    async def wait_for_change(self) -> None:
        """Return at the next moment in which a worker becomes ready, or is no longer."""
        await self._changed.wait()

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

    def capacity(self, base: str) -> Capacity | None:
        """What the workers that take requests for the model `base` hold at once; None: there are none."""
        serving = [worker for worker in self._workers if worker.is_ready and worker.models[0].name == base]
        staying = [worker.capacity for worker in serving if not worker.is_leaving]
        return sum(staying[1:], staying[0]) if staying else None

    @asynccontextmanager
    async def open(
        self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline
    ) -> AsyncIterator[Failover]:
        """Have `rows` generated by workers that share the vocabulary `fingerprint` of the ids: another if one is lost.

        What its `events` have begun ends when they are closed.
        """
        yield Failover(self, self._budget, Asked(model, rows, fingerprint, deadline), self._clock)

    @contextmanager
    def chosen(
        self, asked: Asked, rows: Sequence[Row], avoided: Collection[str]
    ) -> Iterator[tuple[WorkerClient, ServedModel]]:
        """Choose the worker for `rows` and count them there during the body.

        Instances that are `avoided` are chosen only if there are no others.

        Yields it with its own description of the model. Errors: ServiceError (UNAVAILABLE if no worker is ready,
        FAILED_PRECONDITION if none has the vocabulary).
        """
        # Samples of one prompt compute it once.
        prompts = {row.ids.tobytes(): PromptKey(asked.model.name, row.cache_salt, row.ids) for row in rows}.values()
        work = Work(len(rows), sum(len(prompt.ids) for prompt in prompts))
        worker, served = self._choose(asked, prompts, work, avoided)
        for prompt in prompts:
            self._affinity.note(prompt, worker.instance_id)
        load = worker.load
        sent = load.send(work)
        worker.breaker.enter()
        try:
            yield worker, served
        finally:
            load.end(sent)

    def has_other(self, asked: Asked, avoided: Collection[str]) -> bool:
        """Whether a worker that is not `avoided` could take what is asked now."""
        return any(worker.instance_id not in avoided for worker, _ in self._fitting(asked))

    async def wait_for_worker(self, asked: Asked) -> bool:
        """Wait until a worker could take over, for `failover_seconds` at most. False: there was none."""
        remaining = asked.deadline.remaining()
        seconds = self._failover_seconds if remaining is None else min(remaining, self._failover_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.sleep(NOTICE_SECONDS)
                while not self._fitting(asked):
                    await self._changed.wait()
                return True
        return False

    async def wait_for_room(self, asked: Asked, lost_at: float) -> bool:
        """Wait a little for room at workers that were full. False: `failover_seconds` have passed since `lost_at`."""
        left = lost_at + self._failover_seconds - self._clock()
        remaining = asked.deadline.remaining()
        seconds = left if remaining is None else min(remaining, left)
        if seconds <= 0:
            return False
        await asyncio.sleep(min(seconds, ROOM_SECONDS))
        return True

    def _choose(
        self, asked: Asked, prompts: Collection[PromptKey], work: Work, avoided: Collection[str]
    ) -> tuple[WorkerClient, ServedModel]:
        fitting = self._fitting(asked)
        if not fitting:
            if any(_serves(served, asked.model) for served in self.ready_models()):
                raise vocabulary_mismatch(None)
            raise unavailable("NO_WORKER", f"no worker of model {asked.model.name!r} is ready")
        fitting = [(worker, served) for worker, served in fitting if not worker.is_leaving] or fitting
        closed = [(worker, served) for worker, served in fitting if not worker.breaker.is_open]
        fresh = [(worker, served) for worker, served in closed if worker.instance_id not in avoided]
        pool = fresh or closed or fitting
        cached: Counter[str] = sum((Counter(self._affinity.cached_tokens(prompt)) for prompt in prompts), Counter())
        candidates = [worker.candidate(cached[worker.instance_id]) for worker, _ in pool]
        return pool[choose(candidates, work, self._random)]

    def _fitting(self, asked: Asked) -> list[tuple[WorkerClient, ServedModel]]:
        return [
            (worker, served)
            for worker in self._workers
            if worker.is_ready
            for served in worker.models
            if _serves(served, asked.model) and served.vocabulary_fingerprint == asked.fingerprint
        ]

    @property
    def _workers(self) -> Collection[WorkerClient]:
        return [*self._clients.values(), *self._leaving.values()]

    def _set_targets(self, targets: frozenset[str]) -> None:
        """Begin with those that are new. Those that are gone are left when they have finished.

        They get nothing new, unless nobody else is ready: of a fleet that is replaced at once, the new one is not yet.
        """
        gone = [self._clients.pop(target) for target in self._clients.keys() - targets]
        for target in sorted(targets - self._clients.keys()):
            self._clients[target] = WorkerClient(target, self._default_max_new_tokens, self._on_change, self._clock)
        for worker in gone:
            leaving = asyncio.create_task(worker.leave())
            self._leaving[leaving] = worker
            leaving.add_done_callback(self._leaving.pop)
        self._on_change()

    def _on_change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _check_for_ever(self) -> None:
        while True:
            slept_at = self._clock()
            await asyncio.sleep(CHECK_SECONDS)
            if self._clock() - slept_at > 2 * CHECK_SECONDS:
                continue  # it was we who were away: what the workers said meanwhile is still unread
            for worker in list(self._workers):
                worker.check()


def _serves(served: ServedModel, model: ServedModel) -> bool:
    return (served.name, served.base) == (model.name, model.base)
