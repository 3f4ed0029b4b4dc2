"""All workers: what they serve, and which of them takes a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from gateway.deadline import Deadline
from gateway.fleet.affinity import PrefixAffinity, PromptKey
from gateway.fleet.choice import choose
from gateway.fleet.failover import Asked, Failover
from gateway.fleet.members import Members
from gateway.fleet.retry_budget import RetryBudget
from gateway.fleet.targets import Source
from gateway.fleet.vocabularies import Vocabularies
from gateway.fleet.worker_client import WorkerClient
from gateway.fleet.worker_load import Work
from gateway.fleet.worker_state import WorkerState
from gateway.generation import Row
from gateway.models import Capacity, ServedModel
from rpc.errors import unavailable, vocabulary_mismatch
from rpc.tls.client import ClientTls

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
        tls: ClientTls | None = None,
    ) -> None:
        """A request that has lost its worker waits `failover_seconds` for another one, if there is none."""
        self._clock = clock
        self._failover_seconds = failover_seconds
        self._budget = RetryBudget()
        self._affinity = PrefixAffinity()
        # By model, since the start: what was sent to workers, and how much of that to fill rows up to the longest one.
        self.sent_tokens: Counter[str] = Counter()
        self.sent_padding_tokens: Counter[str] = Counter()
        self._random = random.Random()  # noqa: S311 - who takes a request is no secret
        self._workers = Members(
            sources, lambda target, on_change: WorkerClient(target, default_max_new_tokens, on_change, clock, tls), tls
        )
        self.vocabularies = Vocabularies(self._workers)
        self._checking = asyncio.create_task(self._check_for_ever())

    async def close(self) -> None:
        """Close every client."""
        self._checking.cancel()
        await asyncio.wait({self._checking})
        await self._workers.close()

    async def wait_for_change(self) -> None:
        """Return at the next moment in which a worker becomes ready, or is no longer."""
        await self._workers.wait_for_change()

    def ready_models(self) -> list[ServedModel]:
        """What the ready workers serve, one entry for each model or adapter of each worker."""
        return [model for worker in self._workers if worker.is_ready for model in worker.models]

    def known_models(self) -> list[ServedModel]:
        """What the workers have served, be they ready now or not."""
        return [model for worker in self._workers for model in worker.models]

    @property
    def retries(self) -> int:
        """How often a request has gone on at another worker."""
        return self._budget.spent

    @property
    def refused_workers(self) -> int:
        """How many were refused for their vocabulary."""
        return self.vocabularies.refused_workers

    @property
    def open_breakers(self) -> int:
        """Workers that say they are ready, have failed again and again, and have not answered since."""
        return sum(worker.is_ready and worker.breaker.has_opened for worker in self._workers)

    def states(self) -> list[WorkerState]:
        """Every worker, for people; once, also while it is called anew with other certificates."""
        states: dict[str, WorkerState] = {}
        for worker in self._workers:
            is_refused = not all(map(self.is_expected, worker.models))
            state = replace(worker.state(), refused=is_refused)
            states.setdefault(worker.instance_id or worker.target, state)
        return list(states.values())

    def described(self) -> list[dict[str, object]]:
        """Every client of a worker, for whoever operates the gateway."""
        return [worker.described() for worker in self._workers]

    def is_expected(self, model: ServedModel) -> bool:
        """Whether its vocabulary is the one that the tokenizer service has for it."""
        return self.vocabularies.is_expected(model)

    def capacity(self, base: str) -> Capacity | None:
        """What the workers that take requests for the model `base` hold at once; None: there are none."""
        serving = [worker for worker in self._workers if worker.is_ready and worker.models[0].name == base]
        counted = [worker.capacity for worker in serving if not worker.is_leaving]
        counted = counted or [worker.capacity for worker in serving]  # those that will come hold as much
        return sum(counted[1:], counted[0]) if counted else None

    def ask(self, model: ServedModel, rows: Sequence[Row], fingerprint: str, deadline: Deadline) -> Failover:
        """Have `rows` generated by workers that share the vocabulary `fingerprint` of the ids: another if one is lost.

        What its `events` have begun ends when they are closed.
        """
        return Failover(self, self._budget, Asked(model, rows, fingerprint, deadline), self._clock)

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
        self._count_sent(served.base, rows)
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
                    await self._workers.wait_for_change()
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

    def _count_sent(self, model: str, rows: Sequence[Row]) -> None:
        """As one tensor."""
        lengths = [len(row.ids) for row in rows]
        tensor = max(lengths) * len(rows)
        self.sent_tokens[model] += tensor
        self.sent_padding_tokens[model] += tensor - sum(lengths)

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

    async def _check_for_ever(self) -> None:
        while True:
            slept_at = self._clock()
            await asyncio.sleep(CHECK_SECONDS)
            away = self._clock() - slept_at - CHECK_SECONDS  # this loop was: what came meanwhile is still unread
            for worker in self._workers:
                worker.load.excuse(max(0.0, away))
                worker.check()
            self.vocabularies.check()


def _serves(served: ServedModel, model: ServedModel) -> bool:
    return (served.name, served.base) == (model.name, model.base)
