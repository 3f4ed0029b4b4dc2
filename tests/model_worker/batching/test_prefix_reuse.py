"""K/V of one row that another starts from: what is spared, what is never shared, and that no token changes."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_worker.batching.scheduler import SchedulerLimits
from model_worker.engine import RowFailure
from model_worker.engines.fake_engine import FakeModel
from model_worker.engines.fake_faults import fail_rows, memory_for
from model_worker.sequence import FinishReason, RowParams
from tests.model_worker.batching.rig import Rig, Rows
from tests.model_worker.batching.scoped_engine import ScopedEngine
from tests.model_worker.generation_support import ids_of

MODEL = FakeModel(vocabulary_size=50, context_length=80, kv_capacity_tokens=400, adapters=("left", "right"))
LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=16, growth_tokens=4, look_ahead=2)
PARAMS = RowParams(max_new_tokens=6)
PROMPT = array("i", range(30))


def rig(*faults: object, model: FakeModel = MODEL, enable_prefix_caching: bool = True, **engine: object) -> Rig:
    return Rig(
        model=model,
        limits=LIMITS,
        engine=ScopedEngine(model, *faults, **engine),
        enable_prefix_caching=enable_prefix_caching,
    )


def serve(worker: Rig, *rows: tuple[array[int], RowParams]) -> list[int]:
    """Run one request to its end. The cached tokens of each row."""
    request = worker.add(*rows)
    worker.run()
    worker.check_complete(request)
    return worker.cached_tokens(request)


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    worker = rig()
    assert serve(worker, (PROMPT, PARAMS)) == [0]
    assert serve(worker, (PROMPT, PARAMS)) == [29]
    worker.check_empty()


def test_what_a_row_generated_is_reused_by_the_next_turn() -> None:
    worker = rig()
    serve(worker, (PROMPT, PARAMS))
    turn = PROMPT + array("i", worker.expect(0)[0]) + ids_of(7, 8, 9)
    assert serve(worker, (turn, PARAMS)) == [30 + 6 - 1], "the last token drawn was never computed"


def test_an_extent_that_is_continued_is_taken_over_without_a_copy() -> None:
    engine = ScopedEngine(MODEL)
    worker = Rig(model=MODEL, limits=LIMITS, engine=engine)
    serve(worker, (PROMPT, PARAMS))
    turn = PROMPT + array("i", worker.expect(0)[0]) + ids_of(7, 8, 9)
    serve(worker, (turn, PARAMS))
    assert engine.copies == 0
    assert worker.batch.arena.kept_tokens == len(turn) + 6 - 1


def test_a_row_that_still_runs_lends_its_prompt() -> None:
    worker = rig()
    running = worker.add((PROMPT, RowParams(max_new_tokens=40)))
    worker.step(3)
    other = worker.add((PROMPT[:20] + ids_of(1, 1, 1), PARAMS))
    worker.run()
    assert worker.cached_tokens(other) == [20]
    worker.check_complete(running)
    worker.check_complete(other)


def test_requests_that_arrive_together_compute_a_common_beginning_once() -> None:
    worker = rig()
    requests = [worker.add((PROMPT + ids_of(first, 1), PARAMS)) for first in range(4)]
    worker.run()
    assert [worker.cached_tokens(request) for request in requests] == [[0], [30], [30], [30]]
    for request in requests:
        worker.check_complete(request)


def test_a_short_common_beginning_is_not_waited_for() -> None:
    worker = rig()
    for first in (10, 20):
        worker.add((ids_of(1) + array("i", range(first, first + 7)), PARAMS))
    worker.step()
    assert worker.load().running == 2


@pytest.mark.parametrize("other", [{"cache_salt": "b"}, {"adapter": "left"}, {"adapter": "left", "cache_salt": "b"}])
def test_other_salts_and_adapters_share_nothing(other: dict[str, str]) -> None:
    worker = rig()
    serve(worker, (PROMPT, PARAMS))
    assert serve(worker, (PROMPT, replace(PARAMS, **other))) == [0]
    assert serve(worker, (PROMPT, replace(PARAMS, **other))) == [29]


def test_a_row_that_scores_its_prompt_computes_all_of_it_and_others_use_that() -> None:
    worker = rig()
    scoring = replace(PARAMS, prompt_logprobs=0)
    serve(worker, (PROMPT, PARAMS))
    assert serve(worker, (PROMPT, scoring), (PROMPT, scoring)) == [0, 0]
    assert serve(worker, (PROMPT + ids_of(1), PARAMS)) == [30]


def test_without_prefix_caching_only_rows_of_one_request_share_and_nothing_is_kept() -> None:
    worker = rig(enable_prefix_caching=False)
    assert serve(worker, (PROMPT, PARAMS), (PROMPT, PARAMS)) == [0, 29]
    assert serve(worker, (PROMPT, PARAMS)) == [0]
    assert worker.batch.arena.kept_tokens == 0


def test_a_cancelled_row_leaves_what_it_has_drawn_from() -> None:
    worker = rig()
    worker.batch.cancel(worker.stream(worker.add((PROMPT, PARAMS))))
    early = worker.add((PROMPT, PARAMS))
    worker.step()
    worker.batch.cancel(worker.stream(early))
    assert serve(worker, (PROMPT, PARAMS)) == [0], "nothing was drawn: its K/V might be no numbers"
    late = worker.add((PROMPT[::-1], PARAMS))
    worker.step(4)
    worker.batch.cancel(worker.stream(late))
    assert serve(worker, (PROMPT[::-1], PARAMS)) == [29]


def test_a_row_cancelled_in_its_prompt_leaves_only_what_it_took_over() -> None:
    worker = rig()
    serve(worker, (PROMPT, RowParams(max_new_tokens=2)))
    longer = (PROMPT + PROMPT[::-1], PARAMS)
    early = worker.add(longer)
    worker.step()
    assert worker.load().running == 1
    worker.batch.cancel(worker.stream(early))
    assert serve(worker, longer) == [30], "nothing was drawn after these: the rest might be no numbers"


def test_nothing_of_a_failed_row_is_used_again() -> None:
    failure = RowFailure("BAD_NUMBERS", "the logits are not numbers")
    worker = rig(fail_rows(failure, lambda step, _: step == 5))
    worker.add((PROMPT, PARAMS))
    worker.run()
    assert worker.batch.arena.kept_tokens == 0
    assert serve(worker, (PROMPT, PARAMS)) == [0]


def test_the_least_recently_used_gives_way_and_kept_tokens_do_not_count_as_used() -> None:
    worker = rig(model=replace(MODEL, kv_capacity_tokens=130))
    prompts = [array("i", range(first, first + 30)) for first in (0, 10, 20)]
    for prompt in prompts:
        serve(worker, (prompt, RowParams(max_new_tokens=2)))
    assert worker.load().kv_tokens_used == 0
    assert worker.batch.arena.kept_tokens == 93
    assert serve(worker, (prompts[0], RowParams(max_new_tokens=2))) == [29]
    for other in (PROMPT[::-1], PROMPT[5:] + PROMPT[:5]):
        serve(worker, (other, RowParams(max_new_tokens=2)))
    assert serve(worker, (prompts[1], RowParams(max_new_tokens=2))) == [0]
    assert serve(worker, (prompts[0], RowParams(max_new_tokens=2))) == [29]


def test_a_row_takes_over_what_it_shares_where_there_is_no_room_for_both() -> None:
    worker = rig(model=replace(MODEL, kv_capacity_tokens=60))
    serve(worker, (PROMPT, RowParams(max_new_tokens=20)))
    assert serve(worker, (PROMPT + ids_of(1), PARAMS)) == [30]


def test_the_same_answer_twice_is_kept_once() -> None:
    worker = rig()
    worker.add((PROMPT, PARAMS), (PROMPT, PARAMS))
    worker.run()
    assert worker.batch.arena.kept_tokens == 35


def test_a_row_that_gave_way_finds_its_kv_again_unless_the_space_was_needed() -> None:
    worker = rig(model=replace(MODEL, kv_capacity_tokens=79))
    params = RowParams(max_new_tokens=60)
    requests = [worker.add((array("i", range(first, first + 10)), params)) for first in (0, 20)]
    worker.run()
    for request in requests:
        worker.check_complete(request)


@pytest.mark.parametrize("failing", range(1, 8))
def test_a_copy_that_runs_out_of_memory_is_computed_instead(failing: int) -> None:
    worker = rig(model=replace(MODEL, kv_capacity_tokens=90), failing_copies={failing, failing + 2})
    params = RowParams(max_new_tokens=20)
    requests = [worker.add((PROMPT[:10], params), (PROMPT[:10] + ids_of(first), params)) for first in range(3)]
    worker.run()
    for request in requests:
        worker.check_complete(request)
    worker.check_empty()


# Any schedule.

SHARED = [array("i", range(first, first + 25)) for first in (0, 25)]
IDS = st.builds(
    lambda shared, cut, tail: (SHARED[shared][:cut] + array("i", tail)) or ids_of(3),
    st.integers(0, 1),
    st.integers(0, 25),
    st.lists(st.integers(0, 3), max_size=8),
)
ROW = st.tuples(
    IDS,
    st.builds(
        RowParams,
        max_new_tokens=st.integers(1, 40),
        adapter=st.sampled_from(["", "", "left"]),
        cache_salt=st.sampled_from(["", "", "b"]),
        prompt_logprobs=st.sampled_from([None, None, None, 0]),
    ),
)
ACTIONS = st.lists(
    st.tuples(st.just("add"), st.lists(ROW, min_size=1, max_size=3))
    | st.tuples(st.just("samples"), st.tuples(ROW, st.integers(2, 4)))
    | st.tuples(st.just("step"), st.integers(1, 12))
    | st.tuples(st.just("run"), st.none())
    | st.tuples(st.just("cancel"), st.integers(0, 9))
    | st.tuples(st.just("stop"), st.tuples(st.integers(0, 9), st.integers(0, 3))),
    min_size=1,
    max_size=14,
)


def check_any_schedule(
    actions: list[tuple[str, object]],
    arena: int,
    memory: int,
    failing_copies: set[int],
    failing_step: int,
) -> None:
    """Whoever ends says what it says alone; whoever is cut short says the beginning of it; and nothing is left."""
    failure = RowFailure("BAD_NUMBERS", "the logits are not numbers")
    model = replace(MODEL, kv_capacity_tokens=arena)
    faults = (memory_for(memory), fail_rows(failure, lambda step, segment: step == failing_step and segment.draws))
    worker = rig(*faults, model=model, failing_copies=failing_copies)
    for action, what in actions:
        act(worker, action, what)
    worker.run()
    worker.check_empty()
    for request, (_, rows, _) in enumerate(worker.requests):
        heard = worker.heard(request)
        for row in range(len(rows)):
            tokens, reason = worker.expect(request, row)
            end = heard.ends.get(row)
            assert heard.tokens[row] == tokens[: len(heard.tokens[row])]
            if getattr(end, "reason", None) in {FinishReason.MAX_NEW_TOKENS, FinishReason.CONTEXT_LENGTH}:
                assert (heard.tokens[row], end.reason) == (tokens, reason)


def act(worker: Rig, action: str, what: object) -> None:
    if action == "add":
        worker.add(*what)
    elif action == "samples":
        rows: Rows = [what[0]] * what[1]
        worker.add(*rows)
    elif action == "step":
        worker.step(what)
    elif action == "run":
        worker.run()
    elif action == "cancel" and what < len(worker.requests):
        worker.batch.cancel(worker.stream(what))
    elif action == "stop" and what[0] < len(worker.requests):
        worker.batch.stop_row(worker.stream(what[0]), what[1])


SCHEDULES = (
    ACTIONS,
    st.sampled_from([79, 100, 150, 400]),
    st.sampled_from([1, 4, 1000, 1000]),
    st.sets(st.integers(1, 12), max_size=3),
    st.integers(0, 30),
)


@given(*SCHEDULES)
def test_no_schedule_of_shared_prefixes_and_faults_changes_a_token(
    actions: list[tuple[str, object]], arena: int, memory: int, failing_copies: set[int], failing_step: int
) -> None:
    check_any_schedule(actions, arena, memory, failing_copies, failing_step)


@pytest.mark.slow
@settings(max_examples=1000)
@given(*SCHEDULES)
def test_none_of_1000_schedules_changes_a_token(
    actions: list[tuple[str, object]], arena: int, memory: int, failing_copies: set[int], failing_step: int
) -> None:
    check_any_schedule(actions, arena, memory, failing_copies, failing_step)
