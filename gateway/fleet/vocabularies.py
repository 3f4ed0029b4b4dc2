"""Which vocabulary each model has, as its tokenizer service says, and which workers have another one.

Such a worker would read every prompt as other words. It gets no request, and says so once, with both fingerprints.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from gateway.models import ServedModel
from rpc import log

LOGGER = logging.getLogger("tokenmill.gateway.vocabularies")
REMEMBERED = 4096  # workers that were refused: as many as one source of targets may have


class Worker(Protocol):
    """A worker that may be refused."""

    @property
    def target(self) -> str:
        """Its address, for the log."""
        ...

    @property
    def instance_id(self) -> str:
        """New at each of its starts."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls."""
        ...

    @property
    def models(self) -> Sequence[ServedModel]:
        """What it serves."""
        ...


class Vocabularies:
    """Owns what the tokenizer services have told; event loop only."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self.refused_workers = 0  # so far; one that starts again counts again
        self._workers = workers
        self._expected: dict[str, str] = {}  # by model: a few, as many as the tokenizer services have
        self._refused: deque[str] = deque(maxlen=REMEMBERED)

    def learn(self, model: str, fingerprint: str) -> None:
        """Take what a tokenizer service says of the vocabulary of `model`."""
        if self._expected.get(model) != fingerprint:
            self._expected[model] = fingerprint
            self.check()

    def is_expected(self, model: ServedModel) -> bool:
        """Whether the vocabulary of `model` is, as far as is known, its tokenizer service's."""
        return self._expected.get(model.base, model.vocabulary_fingerprint) == model.vocabulary_fingerprint

    def check(self) -> None:
        """Tell of workers that are ready and have another vocabulary. To be called now and then."""
        for worker in self._workers:
            refused = [model for model in worker.models if not self.is_expected(model)]
            if refused and worker.is_ready and worker.instance_id not in self._refused:
                self._refuse(worker, refused[0])

    def _refuse(self, worker: Worker, model: ServedModel) -> None:
        self._refused.append(worker.instance_id)
        self.refused_workers += 1
        log.event(
            LOGGER,
            logging.ERROR,
            "worker refused: its vocabulary is not the tokenizer service's",
            target=worker.target,
            instance_id=worker.instance_id,
            model=model.base,
            worker_fingerprint=model.vocabulary_fingerprint,
            tokenizer_fingerprint=self._expected[model.base],
        )
