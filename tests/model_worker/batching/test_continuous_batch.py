"""The batch without thread or event loop: every schedule here is deterministic."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.row_events import FailedEvent, FinishedEvent
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.engine import OutOfMemory, RowFailure, Segment
from model_worker.engines.fake_engine import FakeModel
from model_worker.engines.fake_faults import fail_rows, memory_for
from model_worker.sequence import FinishReason, RowParams
from tests.model_worker.batching.rig import LIMITS, MODEL, Rig, Rows
from tests.model_worker.generation_support import expected, ids_of, sampled

# One row's life.

STOPPABLE_LATER = RowParams(stop_token_ids=frozenset({4}), min_new_tokens=2, max_new_tokens=3)


def test_a_row_says_what_the_arithmetic_says() -> None:
    rig = Rig(model=FakeModel(vocabulary_size=10))
    rig.add((ids_of(1, 2, 3), RowParams(max_new_tokens=3)))
    rig.run()
    heard = rig.heard(0)
    assert heard.tokens == {0: [1, 4, 9]}
    end = heard.ends[0]
    assert isinstance(end, FinishedEvent)
    assert end.reason is FinishReason.MAX_NEW_TOKENS
    assert end.matched_token_id is None
    assert (end.usage.prompt_tokens, end.usage.cached_prompt_tokens, end.usage.completion_tokens) == (3, 0, 3)
    rig.check_empty()


@pytest.mark.parametrize(
    ("params", "tokens", "reason", "matched"),
    [
        (RowParams(stop_token_ids=frozenset({4})), [1, 4], FinishReason.STOP_TOKEN, 4),
        (RowParams(), [1, 4, 9], FinishReason.END_OF_SEQUENCE, 9),
        (RowParams(stop_token_ids=frozenset({9})), [1, 4, 9], FinishReason.END_OF_SEQUENCE, 9),
        (RowParams(ignore_eos=True, stop_token_ids=frozenset({9})), [1, 4, 9], FinishReason.STOP_TOKEN, 9),
        (RowParams(ignore_eos=True, max_new_tokens=4), [1, 4, 9, 7], FinishReason.MAX_NEW_TOKENS, None),
        (RowParams(max_new_tokens=3), [1, 4, 9], FinishReason.END_OF_SEQUENCE, 9),
        (RowParams(ignore_eos=True), [1, 4, 9, 7, 5], FinishReason.CONTEXT_LENGTH, None),
        (STOPPABLE_LATER, [1, 5, 0], FinishReason.MAX_NEW_TOKENS, None),
        (RowParams(max_new_tokens=0), [], FinishReason.MAX_NEW_TOKENS, None),
    ],
)
def test_a_row_ends_for_its_reason(
    params: RowParams, tokens: list[int], reason: FinishReason, matched: int | None
) -> None:
    rig = Rig(model=FakeModel(vocabulary_size=10, context_length=8, eos_token_ids=frozenset({9})))
    rig.add((ids_of(1, 2, 3), params))
    rig.run()
    end = rig.heard(0).ends[0]
    assert isinstance(end, FinishedEvent)
    assert (rig.heard(0).tokens[0], end.reason, end.matched_token_id) == (tokens, reason, matched)
    rig.check_empty()


def test_timing_tells_queue_prefill_and_decode_apart() -> None:
    rig = Rig(limits=SchedulerLimits(max_num_seqs=1, max_num_batched_tokens=2, growth_tokens=4))
    rig.add((ids_of(1), RowParams(max_new_tokens=3, ignore_eos=True)))  # steps 0, 1, 2
    rig.add((ids_of(1, 2, 3, 4), RowParams(max_new_tokens=3, ignore_eos=True)))  # prefill in 3, 4; decode in 5, 6
    rig.run()
    end = rig.heard(1).ends[0]
    assert isinstance(end, FinishedEvent)
    timing = end.timing
    assert (timing.queue_seconds, timing.prefill_seconds, timing.decode_seconds) == (3.0, 1.0, 2.0)
    assert (timing.time_to_first_token_seconds, timing.total_seconds) == (4.0, 6.0)


def test_every_token_after_a_rows_first_is_counted_with_how_long_it_took() -> None:
    rig = Rig(limits=SchedulerLimits(max_num_seqs=2, max_num_batched_tokens=2, growth_tokens=4))
    rig.add((ids_of(1), RowParams(max_new_tokens=4, ignore_eos=True)))
    rig.add((ids_of(1, 2), RowParams(max_new_tokens=3, ignore_eos=True)))
    rig.run()
    gaps = rig.batch.token_gaps
    assert gaps.cumulative()[-1] == 3 + 2
    assert gaps.sum_seconds == sum(
        end.timing.decode_seconds for heard in (rig.heard(0), rig.heard(1)) for end in heard.ends.values()
    )


def test_decoding_ends_with_the_last_token_however_much_later_the_row_does() -> None:
    rig = Rig()
    rig.add((ids_of(1), RowParams(ignore_eos=True)))
    rig.step(3)
    rig.clock.now += 10.0
    rig.batch.stop_row(rig.stream(0), 0)
    timing = rig.heard(0).ends[0].timing
    assert (timing.decode_seconds, timing.total_seconds) == (2.0, 13.0)


def test_queued_prompt_tokens_are_those_of_running_and_waiting_rows() -> None:
    rig = Rig(limits=SchedulerLimits(max_num_seqs=1, max_num_batched_tokens=8, growth_tokens=4))
    rig.add((ids_of(*range(1, 31)), RowParams()))
    rig.add((ids_of(*range(21, 1, -1)), RowParams()))
    heard = [rig.load().queued_prompt_tokens]
    for _ in range(5):
        rig.step()
        heard.append(rig.load().queued_prompt_tokens)
    assert heard == [50, 42, 34, 26, 20, 20]
    assert len(rig.heard(0).tokens[0]) == 2, "a generated token is none of them"


def test_a_time_limit_ends_a_running_row_with_what_there_is_and_a_waiting_one_with_nothing() -> None:
    rig = Rig(limits=SchedulerLimits(max_num_seqs=1, max_num_batched_tokens=8, growth_tokens=4))
    rig.add((ids_of(1), RowParams(time_limit_seconds=5.0, ignore_eos=True)))
    rig.add((ids_of(1), RowParams(time_limit_seconds=3.0)))
    rig.add((ids_of(1), RowParams(max_new_tokens=2, ignore_eos=True)))
    rig.step(5)
    assert rig.heard(1).ends[0].reason is FinishReason.TIME_LIMIT
    assert rig.heard(1).ends[0].timing.time_to_first_token_seconds is None
    assert 0 not in rig.heard(0).ends
    rig.step()
    assert rig.heard(0).ends[0].reason is FinishReason.TIME_LIMIT
    assert len(rig.heard(0).tokens[0]) == 5
    rig.run()
    rig.check_complete(2)
    rig.check_empty()


def test_stop_row_ends_one_row_with_its_usage_and_leaves_the_others_undisturbed() -> None:
    rig = Rig()
    params = RowParams(max_new_tokens=30, ignore_eos=True)
    rig.add(*((ids_of(1, 2, value), params) for value in range(4)))
    rig.step(6)
    used = rig.load().kv_tokens_used
    rig.batch.stop_row(rig.stream(0), 2)
    assert rig.load().kv_tokens_used < used
    heard = rig.heard(0)
    assert heard.ends[2].reason is FinishReason.STOP_STRING
    assert heard.ends[2].usage.completion_tokens == len(heard.tokens[2]) > 0
    for again in (2, 4, -1):
        rig.batch.stop_row(rig.stream(0), again)
    rig.run()
    for row in (0, 1, 3):
        assert rig.heard(0).tokens[row] == rig.expect(0, row)[0]
    rig.check_empty()


def test_a_generated_prefix_counts_and_is_not_sent_again() -> None:
    rig = Rig()
    params = RowParams(max_new_tokens=20, ignore_eos=True)
    tokens, _ = expected(ids_of(1, 2, 3), params, MODEL)
    rest = RowParams(max_new_tokens=20, ignore_eos=True, generated_prefix=7)
    rig.add((ids_of(1, 2, 3, *tokens[:7]), rest))
    rig.run()
    assert rig.heard(0).tokens[0] == tokens[7:]
    usage = rig.heard(0).ends[0].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 20)


@pytest.mark.parametrize(
    ("prefix", "params", "reason"),
    [
        ((5, 6), RowParams(max_new_tokens=2, generated_prefix=2), FinishReason.MAX_NEW_TOKENS),
        ((5, 0), RowParams(generated_prefix=2), FinishReason.END_OF_SEQUENCE),
        ((5, 6), RowParams(generated_prefix=2, stop_token_ids=frozenset({6})), FinishReason.STOP_TOKEN),
    ],
)
def test_what_an_earlier_attempt_had_finished_ends_at_once(
    prefix: tuple[int, ...], params: RowParams, reason: FinishReason
) -> None:
    rig = Rig()
    rig.add((ids_of(1, 2, *prefix), params))
    assert rig.heard(0).tokens == {}
    assert rig.heard(0).ends[0].reason is reason
    rig.check_empty()


# Several samples of one prompt.

PROMPT = ids_of(*range(1, 31))


def samples(count: int, new_tokens: int = 6) -> Rows:
    return [(PROMPT, sampled(seed, max_new_tokens=new_tokens, ignore_eos=True)) for seed in range(count)]


def test_what_another_worker_has_lost_goes_ahead_of_the_queue() -> None:
    rig = Rig(limits=replace(LIMITS, max_num_seqs=1))
    running = rig.add((ids_of(1, 2, 3), RowParams(max_new_tokens=3)))
    rig.step()
    waiting = rig.add((ids_of(4, 5, 6), RowParams(max_new_tokens=3)))
    replayed = [rig.add((ids_of(7, 8, last), RowParams(max_new_tokens=4, generated_prefix=1))) for last in (1, 2)]
    ends = []
    for _ in rig.steps():
        ends += [name for name in (running, waiting, *replayed) if rig.heard(name).ends and name not in ends]
    assert ends == [running, *replayed, waiting]


def test_samples_of_one_prompt_compute_it_once() -> None:
    rig = Rig()
    rig.add(*samples(4))
    rig.step(3)
    assert rig.load()[:3] == (1, 3, 9), "6 of the first, and of each other the last one, which it does not copy"
    rig.run()
    rig.check_complete(0)
    assert rig.cached_tokens() == [0, 29, 29, 29]
    rig.check_empty()


def test_samples_copy_from_any_that_still_runs_when_there_are_more_than_places() -> None:
    rig = Rig()
    rig.add(*(samples(1, 3) + samples(6, 8)[1:]))
    rig.run()
    rig.check_complete(0)
    assert rig.cached_tokens() == [0, 29, 29, 29, 29, 29]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_sample_takes_over_when_the_first_goes_away(steps: int) -> None:
    rig = Rig()
    rig.add(*samples(3))
    rig.step(steps)
    rig.batch.stop_row(rig.stream(0), 0)
    rig.run()
    for row in (1, 2):
        assert rig.heard(0).tokens[row] == rig.expect(0, row)[0]
    assert rig.cached_tokens()[2] == 29
    rig.check_empty()


def test_only_identical_rows_share() -> None:
    rig = Rig()
    one, other = samples(2), (ids_of(*range(2, 32)), RowParams(max_new_tokens=6, ignore_eos=True))
    rig.add(one[0], other, one[1])
    rig.run()
    rig.check_complete(0)
    assert rig.cached_tokens() == [0, 0, 29]


def test_rows_of_one_token_have_nothing_to_share() -> None:
    rig = Rig()
    rig.add(*((ids_of(7), sampled(seed, max_new_tokens=4)) for seed in range(3)))
    rig.run()
    rig.check_complete(0)
    assert rig.cached_tokens() == [0, 0, 0]


# Failures.


def test_a_failing_row_fails_alone() -> None:
    failure = RowFailure("BAD_NUMBERS", "the logits are not numbers")
    rig = Rig(fail_rows(failure, lambda step, segment: step == 6 and segment.sequence.ids[0] == 7))
    params = RowParams(max_new_tokens=20, ignore_eos=True)
    rig.add((ids_of(1, 2), params), (ids_of(7, 2), params), (ids_of(3, 2), params))
    rig.run()
    heard = rig.heard(0)
    assert heard.ends[1] == FailedEvent(1, failure.reason, failure.message)
    for row in (0, 2):
        assert heard.tokens[row] == rig.expect(0, row)[0]
    assert heard.tokens[1] == rig.expect(0, 1)[0][: len(heard.tokens[1])]
    rig.check_empty()


@pytest.mark.parametrize("tokens", [1, 2, 3, 5])
def test_too_little_memory_for_a_step_changes_no_token(tokens: int) -> None:
    rig = Rig(memory_for(tokens))
    rig.add(*((ids_of(*range(1, 9 + row)), RowParams(max_new_tokens=9)) for row in range(5)))
    rig.run()
    rig.check_complete(0)
    rig.check_empty()


def test_rows_that_fit_in_no_step_fail_and_leave_nothing_behind() -> None:
    rig = Rig(memory_for(0))
    rig.add((ids_of(1, 2, 3), RowParams()), (ids_of(4), RowParams()))
    rig.run()
    assert {end.reason for end in rig.heard(0).ends.values()} == {"OUT_OF_MEMORY"}
    rig.check_empty()


def test_failing_everything_tells_every_stream_with_live_rows() -> None:
    rig = Rig()
    for _ in range(6):
        rig.add((ids_of(1, 2, 3), RowParams(ignore_eos=True)))
    rig.step(3)
    rig.batch.touched.clear()
    rig.batch.fail_all("SHUTTING_DOWN", "message")
    assert rig.batch.touched == {stream for stream, _, _ in rig.requests}
    rig.batch.forget_all()
    rig.check_empty()


# Any mix, any schedule.

PARAMS = st.builds(
    RowParams,
    sampling=st.builds(lambda seed: sampled(seed).sampling, st.integers(0, 2**64 - 1)) | st.just(RowParams().sampling),
    stop_token_ids=st.frozensets(st.integers(0, 49), max_size=2),
    ignore_eos=st.booleans(),
    min_new_tokens=st.integers(0, 5),
    max_new_tokens=st.integers(1, 40),
)
PROMPTS = st.lists(st.integers(0, 49), min_size=1, max_size=40).map(lambda values: ids_of(*values))
INDEPENDENT = st.lists(st.tuples(PROMPTS, PARAMS), min_size=1, max_size=4)
SAMPLES = st.tuples(PROMPTS, st.lists(PARAMS, min_size=2, max_size=6)).map(lambda pair: [(pair[0], p) for p in pair[1]])
ACTIONS = st.lists(
    st.tuples(st.just("add"), INDEPENDENT | SAMPLES)
    | st.tuples(st.just("step"), st.integers(1, 12))
    | st.tuples(st.just("cancel"), st.integers(0, 9))
    | st.tuples(st.just("stop"), st.tuples(st.integers(0, 9), st.integers(0, 5))),
    min_size=1,
    max_size=14,
)
ALL_LIMITS = st.builds(
    lambda seqs, budget, growth, look_ahead: SchedulerLimits(seqs, seqs + budget, 100, growth, look_ahead),
    st.integers(1, 6),
    st.integers(0, 20),
    st.integers(1, 20),
    st.integers(0, 3),
)


@given(ACTIONS, ALL_LIMITS, st.sampled_from([79, 100, 150]), st.sampled_from([1, 4, 1000]))
def test_any_mix_in_any_schedule_gives_every_row_the_tokens_it_gets_alone(
    actions: list[tuple[str, object]], limits: SchedulerLimits, arena: int, memory: int
) -> None:
    model = FakeModel(vocabulary_size=50, context_length=80, kv_capacity_tokens=arena, eos_token_ids=frozenset({0}))
    rig = Rig(memory_for(memory), model=model, limits=limits)
    cancelled: set[int] = set()
    stopped: set[tuple[int, int]] = set()
    for action, what in actions:
        if action == "add":
            rig.add(*what)
        elif action == "step":
            rig.step(what)
        elif action == "cancel" and what < len(rig.requests):
            cancelled.add(what)
            rig.batch.cancel(rig.stream(what))
        elif action == "stop" and what[0] < len(rig.requests):
            stopped.add(what)
            rig.batch.stop_row(rig.stream(what[0]), what[1])
    rig.run()
    rig.check_empty()
    for request, (_, rows, _) in enumerate(rig.requests):
        heard = rig.heard(request)
        for row in range(len(rows)):
            tokens, reason = rig.expect(request, row)
            end = heard.ends.get(row)
            if end is None:
                assert request in cancelled
            elif end.reason is FinishReason.STOP_STRING:
                assert (request, row) in stopped
            else:
                assert (heard.tokens[row], end.reason) == (tokens, reason)
            assert heard.tokens[row] == tokens[: len(heard.tokens[row])]


def test_a_small_arena_makes_rows_move_and_give_way_with_the_same_tokens() -> None:
    model = FakeModel(vocabulary_size=50, context_length=80, kv_capacity_tokens=90)
    rig = Rig(model=model, limits=SchedulerLimits(4, 16, 100, 4, 2))
    for first in range(6):
        rig.add((ids_of(first, 1, 2), RowParams(max_new_tokens=60)))
    seen_waiting_again = False
    running = 0
    for _ in rig.steps():
        load = rig.load()
        seen_waiting_again |= load.running < running and rig.batch.ended_rows == 0
        running = load.running
        assert load.kv_tokens_used <= 90
    assert seen_waiting_again, "the arena was meant to be too small for all"
    for request in range(6):
        rig.check_complete(request)
    rig.check_empty()


# A long prompt among rows that decode.


def test_a_long_prompt_takes_one_chunk_per_step_and_every_decoding_row_its_token() -> None:
    steps: list[list[tuple[int, int]]] = []  # of each step: row and tokens

    def note(step: int, segments: Sequence[Segment]) -> None:
        assert step == len(steps) + 1
        steps.append([(segment.sequence.ids[0], segment.length) for segment in segments])

    model = FakeModel(vocabulary_size=5000, context_length=4096, kv_capacity_tokens=16_384)
    rig = Rig(note, model=model, limits=SchedulerLimits(max_num_batched_tokens=128))
    for first in range(16):
        rig.add((ids_of(first, 1, 2), RowParams(max_new_tokens=60)))
    rig.step(5)
    long = rig.add((array("i", range(100, 1600)), RowParams(max_new_tokens=5)))
    rig.run()
    for request in range(17):
        rig.check_complete(request)
    computing = [step for step in steps if any(row == 100 and tokens > 1 for row, tokens in step)]
    assert len(computing) == -(-1500 // (128 - 16)), "the prompt gets all that the streams leave of a step"
    for step in computing:
        assert sum(tokens for _, tokens in step) <= 128
        assert [tokens for row, tokens in step if row < 16] == [1] * 16
    end = rig.heard(long).ends[0]
    assert isinstance(end, FinishedEvent)
    assert end.timing.time_to_first_token_seconds == len(computing) - 1


def test_while_memory_is_short_not_every_step_fails_first() -> None:
    refused: list[int] = []

    def short(step: int, segments: Sequence[Segment]) -> None:
        try:
            memory_for(4)(step, segments)
        except OutOfMemory:
            refused.append(step)
            raise

    rig = Rig(short)
    rig.add(*((ids_of(*range(1, 9 + row)), RowParams(max_new_tokens=30, ignore_eos=True)) for row in range(4)))
    rig.run()
    rig.check_complete(0)
    assert 1 <= len(refused) <= 3
