from __future__ import annotations

from collections.abc import Sequence

import pytest

from model_worker.batching.engine_step import Computed, EngineSteps
from model_worker.engine import Draw, RowFailure, Segment
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault, memory_for, raise_at
from model_worker.sequence import Extent, RowParams
from model_worker.sequence import Sequence as Row
from tests.model_worker.generation_support import ids_of


def segments(*lengths: int) -> list[Segment]:
    rows = [
        Row(RowParams(), ids_of(*range(1, length + 1)), length, extent=Extent(100 * index, 100))
        for index, length in enumerate(lengths)
    ]
    return [Segment(row, 0, len(row.ids), draws=True) for row in rows]


def steps(engine: FakeEngine, segments: list[Segment]) -> list[Computed]:
    return EngineSteps(engine).compute(segments)


def engine(*faults: Fault) -> FakeEngine:
    return FakeEngine(FakeModel(), *faults)


def test_a_step_that_fits_is_computed_at_once() -> None:
    assert steps(engine(), segments(1, 2)) == [(1, Draw(3)), (2, Draw(7))]


@pytest.mark.parametrize("tokens", [2, 3, 4, 5])
def test_a_step_that_does_not_fit_is_halved_with_the_same_draws_in_the_same_order(tokens: int) -> None:
    assert steps(engine(memory_for(tokens)), segments(1, 2, 1, 2, 2)) == steps(engine(), segments(1, 2, 1, 2, 2))


def test_a_chunk_that_does_not_fit_alone_is_shortened_and_does_not_draw() -> None:
    assert steps(engine(memory_for(3)), segments(1, 9)) == [(1, Draw(3)), (2, None)]


def test_a_single_token_that_does_not_fit_fails_its_row() -> None:
    ((tokens, failure),) = steps(engine(memory_for(0)), segments(5))
    assert tokens == 0
    assert isinstance(failure, RowFailure)
    assert failure.reason == "OUT_OF_MEMORY"


def test_any_other_exception_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        steps(engine(raise_at(1, ZeroDivisionError())), segments(5, 5))


class Sizes:
    """A fault that lets everything pass and notes how many tokens each step asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, step: int, segments: Sequence[Segment]) -> None:
        self.asked.append(sum(segment.length for segment in segments))


def test_the_next_step_begins_with_what_fitted() -> None:
    sizes = Sizes()
    careful = EngineSteps(engine(sizes, memory_for(4)))
    careful.compute(segments(*[1] * 8))
    assert sizes.asked == [8, 4, 4]
    careful.compute(segments(*[1] * 8))
    assert sizes.asked == [8, 4, 4, 4, 4]


def test_of_many_steps_few_are_wasted_on_asking_for_too_much() -> None:
    sizes = Sizes()
    careful = EngineSteps(engine(sizes, memory_for(5)))
    for _ in range(1000):
        careful.compute(segments(*[1] * 8))
    refused = sum(asked > 5 for asked in sizes.asked)
    assert refused <= 2 + len(sizes.asked) / 50


def test_when_memory_is_back_whole_steps_are_computed_again() -> None:
    short, sizes = [True], Sizes()

    def fault(step: int, segments: Sequence[Segment]) -> None:
        if short[0]:
            memory_for(0)(step, segments)

    careful = EngineSteps(engine(sizes, fault))
    careful.compute(segments(*[1] * 8))
    short[0] = False
    for _ in range(200):
        careful.compute(segments(*[1] * 8))
    assert sizes.asked[-100:] == [8] * 100
