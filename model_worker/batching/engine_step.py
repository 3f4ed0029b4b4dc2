"""Engine steps that survive running out of memory: a step is cut until it fits, and the size that fitted is kept to."""

from __future__ import annotations

import math
from typing import NamedTuple

from model_worker.engine import Engine, Outcome, OutOfMemory, RowFailure, Segment

_PATIENCE = 50  # steps that fit before twice as much is tried: so at most one step in so many is wasted on a refusal


class Computed(NamedTuple):
    """What came of one segment; `tokens` of it were computed, fewer than asked for when memory was short."""

    tokens: int
    outcome: Outcome


class EngineSteps:
    """Has an engine compute segments, in one step if memory allows. Owned by the generation thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fitting_tokens = math.inf  # no larger step is tried for now
        self._passed = 0  # steps since it changed

    def compute(self, segments: list[Segment]) -> list[Computed]:
        """Compute `segments`, with one entry per segment, in order.

        A step that does not fit is halved, which takes at most log2(tokens) refused steps in a row; what comes later
        begins with what fitted. A row whose single token does not fit fails alone.
        """
        computed: list[Computed] = []
        while len(computed) < len(segments):
            computed += self._try(self._piece(segments[len(computed) :]))
        return computed

    def _piece(self, segments: list[Segment]) -> list[Segment]:
        """As many of the first `segments` as fit; of one that does not fit alone, its beginning."""
        piece: list[Segment] = []
        room = self._fitting_tokens
        for segment in segments:
            if segment.length > room:
                break
            piece.append(segment)
            room -= segment.length
        first = segments[0]
        return piece or [Segment(first.sequence, first.start, int(room), draws=False)]

    def _try(self, piece: list[Segment]) -> list[Computed]:
        """Compute `piece` in one step. Nothing comes of one that does not fit, but that the next ones are smaller."""
        try:
            outcomes = self._engine.step(piece)
        except OutOfMemory:
            pass  # dealt with below, after the exception and the frames it holds on to are gone
        else:
            self._passed += 1
            if self._passed == _PATIENCE:
                self._fitting_tokens, self._passed = 2 * self._fitting_tokens, 0
            return [Computed(segment.length, outcome) for segment, outcome in zip(piece, outcomes, strict=True)]
        tokens = sum(segment.length for segment in piece)
        if tokens == 1:
            return [
                Computed(0, RowFailure("OUT_OF_MEMORY", "the model worker ran out of memory computing this output"))
            ]
        self._fitting_tokens, self._passed = tokens // 2, 0
        return []
