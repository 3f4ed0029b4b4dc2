from __future__ import annotations

import threading

import pytest

from model_worker.engine import Draw, Outcome, OutOfMemory, RowFailure, Scored, Segment, TokenLogprob
from model_worker.engines.fake_engine import FakeEngine, FakeModel, next_token
from model_worker.engines.fake_faults import Gate, fail_rows, memory_for, raise_at
from model_worker.sequence import Extent, RowParams, SamplingParams, Sequence
from tests.model_worker.generation_support import LN2, ids_of, sampled

TEN = FakeModel(vocabulary_size=10, context_length=50, kv_capacity_tokens=100)


def row(*ids: int, start: int = 0, params: RowParams | None = None, **more: object) -> Sequence:
    return Sequence(params or RowParams(), ids_of(*ids), len(ids), extent=Extent(start, 20), **more)


def advance(engine: FakeEngine, sequence: Sequence, length: int) -> Outcome:
    draws = sequence.computed + length == len(sequence.ids)
    (outcome,) = engine.step([Segment(sequence, sequence.computed, length, draws)])
    sequence.computed += length
    if isinstance(outcome, Draw):
        sequence.ids.append(outcome.token_id)
    return outcome


@pytest.mark.parametrize("chunks", [[3], [1, 2], [2, 1], [1, 1, 1]])
def test_the_docstrings_example_holds_for_any_chunking(chunks: list[int]) -> None:
    engine, sequence = FakeEngine(TEN), row(1, 2, 3)
    for chunk in [*chunks, 1, 1]:
        advance(engine, sequence, chunk)
    assert list(sequence.ids) == [1, 2, 3, 1, 4, 9]
    assert next_token(ids_of(1, 2, 3, 1, 4), 10) == 9


def test_the_seed_counts_only_for_a_row_that_samples() -> None:
    greedy = RowParams(sampling=SamplingParams(temperature=0.0, seed=5))
    assert advance(FakeEngine(TEN), row(1, 2, 3, params=greedy), 3) == Draw(1)
    assert advance(FakeEngine(TEN), row(1, 2, 3, params=sampled(5)), 3) == Draw(6)


def told(token_id: int, rank: int, *alternatives: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token_id, -rank * LN2, rank, alternatives)


def test_the_docstrings_log_probabilities_hold() -> None:
    two = (told(1, 1), told(2, 2))
    greedy = RowParams(logprobs=2)
    assert advance(FakeEngine(TEN), row(1, 2, 3, params=greedy), 3) == Draw(1, told(1, 1, *two))
    assert advance(FakeEngine(TEN), row(1, 2, 3, params=sampled(3, logprobs=2)), 3) == Draw(4, told(4, 4, *two))
    assert advance(FakeEngine(TEN), row(1, 2, 3, params=sampled(9, logprobs=0)), 3) == Draw(0, told(0, 10))
    (everything,) = [advance(FakeEngine(TEN), row(1, 2, 3, params=RowParams(logprobs=20)), 3)]
    assert isinstance(everything, Draw)
    assert everything.logprob is not None
    assert [other.token_id for other in everything.logprob.alternatives] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("chunks", [[3], [1, 2], [2, 1], [1, 1, 1]])
def test_a_prompt_is_scored_chunk_by_chunk_but_for_its_first_token(chunks: list[int]) -> None:
    engine, sequence = FakeEngine(TEN), row(1, 2, 3, params=RowParams(prompt_logprobs=1))
    *before, last = [advance(engine, sequence, chunk) for chunk in chunks]
    assert all(isinstance(outcome, Scored) for outcome in before)
    assert isinstance(last, Draw)
    of_prompt = [one for outcome in (*before, last) for one in outcome.prompt_logprobs]
    assert of_prompt == [told(2, 10, told(3, 1)), told(3, 7, told(7, 1))]
    assert advance(engine, sequence, 1) == Draw(4), "what was generated is no prompt"


def test_what_an_earlier_attempt_generated_is_no_prompt() -> None:
    params = RowParams(prompt_logprobs=0, generated_prefix=1)
    sequence = Sequence(params, ids_of(1, 2, 3), prompt_tokens=2, extent=Extent(0, 20))
    assert advance(FakeEngine(TEN), sequence, 3) == Draw(1, None, (told(2, 10),))


def test_an_adapter_adds_its_number() -> None:
    engine = FakeEngine(FakeModel(vocabulary_size=10, adapters=("poet", "lawyer")))
    assert engine.spec.adapters == ("poet", "lawyer")
    rows = [
        row(1, 2, 3, start=20 * place, params=RowParams(adapter=name))
        for place, name in enumerate(("", *engine.spec.adapters))
    ]
    assert engine.step([Segment(one, 0, 3, draws=True) for one in rows]) == [Draw(1), Draw(2), Draw(3)]


def test_a_banned_id_is_not_drawn_before_min_new_tokens() -> None:
    params = RowParams(min_new_tokens=1)
    sequence = row(1, 2, 3, params=params, banned_ids=frozenset({1, 2}))
    assert advance(FakeEngine(TEN), sequence, 3) == Draw(3)
    sequence = row(1, 2, 3, banned_ids=frozenset({1, 2}))
    assert advance(FakeEngine(TEN), sequence, 3) == Draw(1)


def test_eos_comes_after_the_tokens_it_is_asked_for() -> None:
    model = FakeModel(vocabulary_size=10, eos_token_ids=frozenset({9}), eos_after=2)
    engine, sequence = FakeEngine(model), row(1, 2, 3)
    for chunk in (3, 1, 1):
        advance(engine, sequence, chunk)
    assert list(sequence.ids)[3:] == [1, 4, 9]


def test_copied_tokens_continue_as_if_computed() -> None:
    engine, leader, follower = FakeEngine(TEN), row(1, 2, 3), row(1, 2, 3, start=40)
    advance(engine, leader, 3)
    engine.copy_kv(leader.extent, follower.extent, 2)
    follower.computed = 2
    assert advance(engine, follower, 1) == Draw(1)


def test_a_wrong_copy_position_or_extent_is_found() -> None:
    engine, sequence = FakeEngine(TEN), row(1, 2, 3)
    advance(engine, sequence, 3)
    sequence.extent = Extent(1, 20)
    with pytest.raises(AssertionError, match="does not hold"):
        advance(engine, sequence, 1)
    with pytest.raises(AssertionError):
        engine.step([Segment(sequence, 1, 1, draws=False)])


def test_reading_a_cleared_extent_is_found() -> None:
    engine, sequence = FakeEngine(TEN), row(1, 2, 3)
    advance(engine, sequence, 3)
    engine.clear_kv(sequence.extent)
    with pytest.raises(AssertionError, match="does not hold"):
        advance(engine, sequence, 1)


def test_overlapping_extents_are_found() -> None:
    first, second = row(1, 2, 3), row(1, 2, 3, start=19)
    with pytest.raises(AssertionError, match="overlap"):
        FakeEngine(TEN).step([Segment(first, 0, 3, draws=True), Segment(second, 0, 3, draws=True)])


def test_faults_strike_where_they_are_asked_to() -> None:
    failure = RowFailure("BAD_NUMBERS", "message")
    engine = FakeEngine(
        TEN, raise_at(1, ZeroDivisionError()), memory_for(3), fail_rows(failure, lambda step, _: step == 3)
    )
    with pytest.raises(ZeroDivisionError):
        advance(engine, row(1), 1)
    with pytest.raises(OutOfMemory):
        advance(engine, row(1, 2, 3, 4), 4)
    assert advance(engine, row(1), 1) == failure
    assert advance(engine, row(1), 1) == Draw(3)


def test_a_gate_lets_exactly_the_allowed_steps_pass() -> None:
    gate = Gate()
    engine, sequence = FakeEngine(TEN, gate), row(1, 2, 3)
    runner = threading.Thread(target=lambda: [advance(engine, sequence, 1) for _ in range(5)])
    runner.start()
    gate.allow(2)
    gate.wait_until_reached()
    assert sequence.computed == 2
    gate.open()
    runner.join()
    assert sequence.computed == 5
