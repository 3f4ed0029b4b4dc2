"""One step as forward passes of the model: one, unless rows want log-probabilities of many tokens of their prompts.

The output head makes a whole vocabulary of numbers for each token that it is asked for, a thousand times as many as
the model keeps of it: so a pass asks for few. Splitting the step is the way to do that with any model; between the
last layer and the logits each family has arithmetic of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from model_worker.engine import Segment

# Prompt tokens scored in one pass: 12 MB of float32 for a vocabulary of 49,152, 64 MB for one of 256,000.
MAX_SCORED_TOKENS = 64


class HeadRow(NamedTuple):
    """A token whose logits are asked for."""

    place: int  # of its segment in the pass
    back: int = 0  # so many tokens before the segment's last
    next_id: int | None = None  # the prompt's next token, whose probability is asked for; None: it is to be drawn


@dataclass(frozen=True)
class ForwardPass:
    """What one call of the model computes: parts of the step's segments, in their order."""

    places: list[int]  # in the step, of each segment
    segments: list[Segment]

    @cached_property
    def head_rows(self) -> list[HeadRow]:
        """What is asked of the output head, in the order of the segments. Where it is nothing, a row that nobody reads.

        The model has no way to leave the head out.
        """
        rows = []
        for place, segment in enumerate(self.segments):
            ids, last = segment.sequence.ids, segment.start + segment.length - 1
            rows += [HeadRow(place, last - position, ids[position + 1]) for position in scored_positions(segment)]
            if segment.draws:
                rows.append(HeadRow(place))
        return rows or [HeadRow(0)]


def forward_passes(segments: Sequence[Segment]) -> Iterator[ForwardPass]:
    """Split a step such that each pass scores at most MAX_SCORED_TOKENS, in the order of the prompt."""
    waiting = list(enumerate(segments))
    while waiting:
        now, later, room = [], [], MAX_SCORED_TOKENS
        for place, segment in waiting:
            wanted = len(scored_positions(segment))
            if wanted <= room:
                now.append((place, segment))
            elif room:
                head, tail = _cut(segment, room)
                now.append((place, head))
                later.append((place, tail))
            else:
                later.append((place, segment))
            room = max(0, room - wanted)
        yield ForwardPass([place for place, _ in now], [segment for _, segment in now])
        waiting = later


def scored_positions(segment: Segment) -> range:
    """Return the positions in `segment` whose next token is one of the prompt and to be scored: its first ones."""
    if segment.sequence.params.prompt_logprobs is None:
        return range(0)
    return range(segment.start, min(segment.start + segment.length, segment.sequence.prompt_tokens - 1))


def _cut(segment: Segment, length: int) -> tuple[Segment, Segment]:
    rest = segment.length - length
    return (
        Segment(segment.sequence, segment.start, length, draws=False),
        Segment(segment.sequence, segment.start + length, rest, segment.draws),
    )
