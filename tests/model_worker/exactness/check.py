"""Holds every row of random schedules to what it says alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_worker.batching.row_events import FailedEvent, FinishedEvent
from model_worker.engine import TokenLogprob
from model_worker.sequence import FinishReason
from tests.model_worker.exactness.asks import Schedule
from tests.model_worker.exactness.expectations import Expected, expect
from tests.model_worker.exactness.performance import Performance, Told
from tests.model_worker.exactness.stage import Stage
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Counts, Tally

# In float32 another batch changes logits by about 3e-5.
_TIE = 1e-4


def explore(subject: Subject, schedules: st.SearchStrategy[Schedule], tally: Tally, examples: int) -> Counter[str]:
    """Check so many random schedules on `subject`. Returns what came up, each with the number of schedules."""
    counts = Counts()

    # Not derandomized, also where a variable says CI: every run tries something new.
    @settings(max_examples=examples, deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
    @given(schedules)
    def every_row_says_what_it_says_alone(schedule: Schedule) -> None:
        counts.add(check(subject, schedule))

    try:
        every_row_says_what_it_says_alone()
    finally:
        tally.of(subject.name).add(counts)
    return counts.seen


def check(subject: Subject, schedule: Schedule) -> Counts:
    """Run `schedule`, and compare what every row says with what it says alone."""
    subject.kernels.chosen = subject.kernels.names[0]
    expected = {ask: expect(ask, subject.oracle, subject.eos_ids, schedule.context) for ask in schedule.asks}
    longest = max(min(len(ask.prompt) + ask.new_tokens, schedule.context) for ask in expected)
    capacity = longest - 1 + schedule.spare_tokens  # the last token of a row is never computed
    spec = replace(
        subject.engine.spec,
        kv_capacity_tokens=capacity,
        context_length=schedule.context,
        eos_token_ids=subject.eos_ids,
    )
    stage = Stage(subject.engine, spec, schedule.refused_steps, schedule.refused_copies)
    subject.kernels.chosen = schedule.kernel
    performance = Performance(schedule, stage, expected)
    counts = Counts(schedules=1)
    for told in performance.told():
        counts.rows += 1
        counts.tokens += len(told.tokens)
        counts.ties += _compare(told, expected[told.ask], subject)
        _check_end(told, expected[told.ask], schedule)
        performance.seen |= _conditions(told)
    counts.seen.update(performance.seen | {f"{schedule.kernel} kernel"})
    return counts


def _compare(told: Told, expected: Expected, subject: Subject) -> bool:
    """Whether the row left its way at a tie; asserts that nothing else made it leave."""
    wanted = expected.tokens[expected.resumed :]
    for place, (found, token) in enumerate(zip(told.tokens, wanted, strict=False)):
        if found != token:
            assert subject.gap is not None, (told, wanted)
            assert subject.gap(told.ask, expected.tokens[: expected.resumed + place]) < _TIE, (told, wanted)
            return True
    assert len(told.tokens) <= len(wanted), (told, wanted)
    if told.ask.manner.logprobs is not None:
        assert len(told.logprobs) == len(told.tokens)
        of_tokens = expected.answer.logprobs[expected.resumed :]
        _check_logprobs(told.logprobs, of_tokens, subject.logprob_tolerance)
    _check_logprobs(told.prompt_logprobs, expected.answer.prompt_logprobs, subject.logprob_tolerance)
    return False


def _check_logprobs(found: Sequence[TokenLogprob], wanted: Sequence[TokenLogprob], tolerance: float) -> None:
    """`found` is the beginning of `wanted`."""
    assert len(found) <= len(wanted)
    for one, other in zip(found, wanted, strict=False):
        assert (one.token_id, one.rank) == (other.token_id, other.rank)
        assert math.isclose(one.logprob, other.logprob, rel_tol=0, abs_tol=tolerance)
        assert len(one.alternatives) == len(other.alternatives)
        _check_logprobs(one.alternatives, other.alternatives, tolerance)


def _check_end(told: Told, expected: Expected, schedule: Schedule) -> None:
    """The row ended as it should or, short of that, as something in `schedule` made it end."""
    ask, end = told.ask, told.end
    if isinstance(end, FailedEvent):
        assert end.reason == ask.failure or (end.reason == "OUT_OF_MEMORY" and schedule.refused_steps), end
        return
    if not isinstance(end, FinishedEvent) or end.reason is FinishReason.STOP_STRING:
        return
    if end.reason is FinishReason.TIME_LIMIT:
        assert ask.time_limit is not None
        return
    assert ask.failure is None, "a row ended well that cannot"
    if told.tokens == expected.tokens[expected.resumed :]:  # else it left at a tie
        assert end.reason is expected.reason
    assert end.usage.prompt_tokens == len(ask.prompt)
    assert end.usage.completion_tokens == expected.resumed + len(told.tokens)


def _conditions(told: Told) -> set[str]:
    conditions = set()
    if told.end is None:
        conditions.add("cancelled")
    elif isinstance(told.end, FailedEvent):
        conditions.add(told.end.reason.lower())
    else:
        conditions.add(told.end.reason.name.lower())
        if told.end.usage.cached_prompt_tokens:
            conditions.add("reused")
        if told.end.usage.completion_tokens > len(told.tokens):
            conditions.add("resumed")
    if told.ask.adapter:
        conditions.add("adapter")
    return conditions
