"""What a step answers: the logits of its forward passes, drawn from and scored, as one outcome per segment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from model_worker.engine import Draw, Outcome, RowFailure, Scored, Segment
from model_worker.torch_engine.draw import NOT_NUMBERS, draw_tokens
from model_worker.torch_engine.forward_passes import ForwardPass, HeadRow, forward_passes
from model_worker.torch_engine.isolation import fail_alone
from model_worker.torch_engine.logprobs import read, score
from model_worker.torch_engine.transfer import on_device, take_rows

LogitsOf = Callable[[Sequence[Segment], Sequence[HeadRow]], torch.Tensor]


def answer_step(segments: Sequence[Segment], logits_of: LogitsOf) -> list[Outcome]:
    """Return the outcome of each of `segments`, in order, as `Engine.step` describes it.

    `logits_of` computes segments and returns the logits that are asked for, [head rows, vocabulary]. Errors:
    OutOfMemory, and what `logits_of` raises.
    """
    outcomes: list[Outcome] = [
        None if segment.sequence.params.prompt_logprobs is None else Scored(()) for segment in segments
    ]
    for part in forward_passes(segments):
        for place, outcome in _answer(part, logits_of(part.segments, part.head_rows)):
            outcomes[place] = _joined(outcomes[place], outcome)
    return outcomes


def _answer(part: ForwardPass, logits: torch.Tensor) -> list[tuple[int, Outcome]]:
    """Return what the logits of one pass say, each with the place of its segment in the step: scores first."""
    scored: dict[int, list[int]] = {}  # the head rows of each segment
    drawn: dict[int, int] = {}
    for row, head in enumerate(part.head_rows):
        if head.next_id is not None:
            scored.setdefault(head.place, []).append(row)
        elif part.segments[head.place].draws:
            drawn[head.place] = row
    outcomes: list[Outcome] = [*_scores(part, logits, scored)]
    if drawn:
        sequences = [part.segments[place].sequence for place in drawn]
        outcomes += draw_tokens(take_rows(logits, list(drawn.values())), sequences)
    return [(part.places[place], outcome) for place, outcome in zip([*scored, *drawn], outcomes, strict=True)]


def _scores(part: ForwardPass, logits: torch.Tensor, scored: dict[int, list[int]]) -> list[Scored | RowFailure]:
    """Return the prompt's log-probabilities of each of the `scored` segments; one transfer for all."""

    def compute(places: Sequence[int]) -> list[Scored | RowFailure]:
        rows = [row for place in places for row in scored[place]]
        ids = [part.head_rows[row].next_id or 0 for row in rows]
        counts = [part.segments[place].sequence.params.prompt_logprobs or 0 for place in places]
        tokens = on_device(ids, torch.int64, logits.device)
        told = zip(ids, score(take_rows(logits, rows), tokens, max(counts)).tolist(), strict=True)
        return [
            _scored([next(told) for _ in scored[place]], count) for place, count in zip(places, counts, strict=True)
        ]

    return fail_alone(compute, list(scored)) if scored else []


def _scored(told: list[tuple[int, list[float]]], alternatives: int) -> Scored | RowFailure:
    if any(math.isnan(numbers[0]) for _, numbers in told):
        return NOT_NUMBERS
    return Scored(tuple(read(numbers, token_id, alternatives) for token_id, numbers in told))


def _joined(earlier: Outcome, later: Outcome) -> Outcome:
    """Return what two parts of one segment say together."""
    if isinstance(earlier, RowFailure) or later is None:
        return earlier
    if not isinstance(earlier, Scored) or isinstance(later, RowFailure):
        return later
    prompt = earlier.prompt_logprobs + later.prompt_logprobs
    return Scored(prompt) if isinstance(later, Scored) else Draw(later.token_id, later.logprob, prompt)
