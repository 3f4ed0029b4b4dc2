"""Runs a schedule through the real policy, step by step."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import NamedTuple

from model_worker.batching.row_events import TerminalEvent
from model_worker.engine import TokenLogprob
from rpc.token_tensors import pack_tensor, unpack_tensor
from tests.model_worker.batching.rig import Rig
from tests.model_worker.exactness.asks import Action, Arrive, Ask, Cancel, Schedule, Steps, Stop
from tests.model_worker.exactness.expectations import Expected
from tests.model_worker.exactness.stage import Stage
from tests.model_worker.tiny_models import EOS

_MOST_STEPS = 3000


class Told(NamedTuple):
    """What one row said. `end` is None where its request was cancelled."""

    ask: Ask
    tokens: list[int]
    logprobs: list[TokenLogprob]
    prompt_logprobs: list[TokenLogprob]
    end: TerminalEvent | None


class Performance:
    """One schedule on a stage. `seen` names what came up on the way."""

    def __init__(self, schedule: Schedule, stage: Stage, expected: Mapping[Ask, Expected]) -> None:
        self.seen = stage.seen
        self._expected = expected
        self._vocabulary = stage.spec.vocabulary_size
        self._rig = Rig(engine=stage, limits=schedule.limits, enable_prefix_caching=schedule.prefix_caching)
        self._requests: list[tuple[Ask, ...]] = []
        for action in (*schedule.actions, Steps(_MOST_STEPS)):
            self._act(action)
        if self._rig.batch.arena.moved_tokens:
            self.seen.add("moved")

    def told(self) -> list[Told]:
        """What every row said, once nothing is left of any on the worker."""
        self._rig.check_empty()
        told = []
        for request, asks in enumerate(self._requests):
            heard = self._rig.heard(request)
            told += [
                Told(ask, heard.tokens[row], heard.logprobs[row], heard.prompt_logprobs[row], heard.ends.get(row))
                for row, ask in enumerate(asks)
            ]
        return told

    def _act(self, action: Action) -> None:
        match action:
            case Arrive(asks):
                self._arrive(asks)
            case Steps(count):
                for _ in range(count):
                    if not self._rig.batch:
                        break
                    self._rig.step()
                    if any(row.admitted_at is not None for row in self._rig.batch._roster.waiting):
                        self.seen.add("preempted")
            case Cancel(request) if request < len(self._requests):
                self._rig.batch.cancel(self._rig.stream(request))
            case Stop(request, row) if request < len(self._requests):
                self._rig.batch.stop_row(self._rig.stream(request), row)

    def _arrive(self, asks: tuple[Ask, ...]) -> None:
        """Take the rows in as the servicer does: out of one tensor that is padded with an id that means something."""
        expected = [self._expected[ask] for ask in asks]
        known = [array("i", (*ask.prompt, *e.tokens[: e.resumed])) for ask, e in zip(asks, expected, strict=True)]
        if len({len(ids) for ids in known}) > 1:
            self.seen.add("padding")
        rows = unpack_tensor(pack_tensor(known, EOS), self._vocabulary)
        params = [ask.params(e.stop_ids, e.resumed) for ask, e in zip(asks, expected, strict=True)]
        self._rig.add(*zip(rows, params, strict=True))
        self._requests.append(asks)
