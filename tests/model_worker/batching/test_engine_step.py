from __future__ import annotations

import pytest

from model_worker.batching.engine_step import compute
from model_worker.engine import Draw, RowFailure, Segment
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault, memory_for, raise_at
from model_worker.sequence import Extent, RowParams, Sequence
from tests.model_worker.generation_support import ids_of


def segments(*lengths: int) -> list[Segment]:
    rows = [
        Sequence(RowParams(), ids_of(*range(1, length + 1)), length, extent=Extent(100 * index, 100))
        for index, length in enumerate(lengths)
    ]
    return [Segment(row, 0, len(row.ids), draws=True) for row in rows]


def engine(*faults: Fault) -> FakeEngine:
    return FakeEngine(FakeModel(), *faults)


def test_a_step_that_fits_is_computed_at_once() -> None:
    assert compute(engine(), segments(1, 2)) == [(1, Draw(3)), (2, Draw(7))]


@pytest.mark.parametrize("tokens", [2, 3, 4, 5])
def test_a_step_that_does_not_fit_is_halved_with_the_same_draws_in_the_same_order(tokens: int) -> None:
    assert compute(engine(memory_for(tokens)), segments(1, 2, 1, 2, 2)) == compute(engine(), segments(1, 2, 1, 2, 2))


def test_a_chunk_that_does_not_fit_alone_is_shortened_and_does_not_draw() -> None:
    assert compute(engine(memory_for(3)), segments(1, 9)) == [(1, Draw(3)), (2, None)]


def test_a_single_token_that_does_not_fit_fails_its_row() -> None:
    ((tokens, failure),) = compute(engine(memory_for(0)), segments(5))
    assert tokens == 0
    assert isinstance(failure, RowFailure)
    assert failure.reason == "OUT_OF_MEMORY"


def test_any_other_exception_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        compute(engine(raise_at(1, ZeroDivisionError())), segments(5, 5))
