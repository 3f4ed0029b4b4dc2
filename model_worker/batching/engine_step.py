"""One engine step that survives running out of memory: the step is halved until it fits or a single token does not."""

from __future__ import annotations

from typing import NamedTuple

from model_worker.engine import Engine, Outcome, OutOfMemory, RowFailure, Segment


class Computed(NamedTuple):
    """What came of one segment; `tokens` of it were computed, fewer than asked for when memory was short."""

    tokens: int
    outcome: Outcome


def compute(engine: Engine, segments: list[Segment]) -> list[Computed]:
    """Compute `segments`, in one step if memory allows, with one entry per segment, in order.

    Halving the segments and then the tokens of the last one takes at most log2(rows) + log2(tokens) refused steps in
    a row. A row whose single token does not fit fails alone.
    """
    try:
        outcomes = engine.step(segments)
    except OutOfMemory:
        pass  # retried below, after the exception and the frames it holds on to are gone
    else:
        return [Computed(segment.length, outcome) for segment, outcome in zip(segments, outcomes, strict=True)]
    if len(segments) > 1:
        half = len(segments) // 2
        return compute(engine, segments[:half]) + compute(engine, segments[half:])
    (segment,) = segments
    if segment.length > 1:
        return compute(engine, [Segment(segment.sequence, segment.start, segment.length // 2, draws=False)])
    return [Computed(0, RowFailure("OUT_OF_MEMORY", "the model worker ran out of memory computing this output"))]
