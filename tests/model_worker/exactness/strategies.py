"""Random schedules: who arrives when with what, on a worker with which limits, and what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from model_worker.batching.scheduler import SchedulerLimits
from tests.model_worker.exactness.asks import (
    MOST_NEW_TOKENS,
    Arrive,
    Ask,
    Cancel,
    Manner,
    Prompt,
    Schedule,
    Steps,
    Stop,
)
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.tiny_models import CONTEXT, VOCABULARY, prompt_of

_MOST_REQUESTS = 6


def prompt_pool(vocabulary: int = VOCABULARY) -> list[Prompt]:
    """Prompts of 1 to 38 tokens, many of which begin alike."""
    stems = [prompt_of(33, seed, vocabulary) for seed in (1, 2)]
    return [
        (*stem[:common], *prompt_of(own, 10 * common + own + number, vocabulary))
        for number, stem in enumerate(stems)
        for common in (0, 6, 15, 33)
        for own in (0, 1, 5)
        if common + own
    ]


def asks(subject: Subject, prompts: Sequence[Prompt] | None = None, least_tokens: int = 1) -> st.SearchStrategy[Ask]:
    """Rows that can be anything but broken; of `prompts`, or any of the subject's."""
    return st.builds(
        Ask,
        prompt=st.sampled_from(prompts or subject.prompts),
        manner=st.builds(Manner.seeded, st.sampled_from(subject.manners), st.integers(0, 2)),
        new_tokens=st.integers(0, MOST_NEW_TOKENS - least_tokens).map(lambda fewer: MOST_NEW_TOKENS - fewer),
        resumed=st.just(0) | st.integers(0, MOST_NEW_TOKENS - 1),
        stop_at=st.none() | st.none() | st.integers(0, MOST_NEW_TOKENS - 1),
        ignore_eos=st.booleans(),
        adapter=st.sampled_from(subject.adapters),
        salt=st.sampled_from(["", "", "", "b"]),
        time_limit=st.sampled_from([None, None, None, None, 12]),
    )


def _samples(ask: Ask, count: int) -> Arrive:
    """`n` rows of one prompt, each with a seed of its own."""
    seed = ask.manner.sampling.seed
    return Arrive(tuple(replace(ask, manner=ask.manner.seeded(seed + index)) for index in range(count)))


def any_schedule(subject: Subject) -> st.SearchStrategy[Schedule]:
    """Any rows in any schedule."""
    return schedules(subject, asks(subject))


def brief_schedule(subject: Subject) -> st.SearchStrategy[Schedule]:
    """Schedules for a few examples only: of few prompts, which somebody has to answer, and without the smallest."""
    return schedules(subject, asks(subject, subject.prompts[4::6], least_tokens=6), least_rows=3)


def schedules(subject: Subject, rows: st.SearchStrategy[Ask], least_rows: int = 1) -> st.SearchStrategy[Schedule]:
    """Schedules of such rows, on a worker that may have little room, and may run out of memory."""
    arrivals = st.builds(Arrive, st.lists(rows, min_size=least_rows, max_size=4).map(tuple))
    arrivals |= st.builds(_samples, rows, st.integers(2, 3))
    request = st.integers(0, _MOST_REQUESTS - 1)
    later = (
        st.builds(Steps, st.integers(1, 8))
        | arrivals
        | st.builds(Cancel, request)
        | st.builds(Stop, request, st.integers(0, 2))
    )
    return st.builds(
        Schedule,
        actions=st.tuples(arrivals, st.lists(later, min_size=3, max_size=10)).map(lambda drawn: (drawn[0], *drawn[1])),
        limits=_limits(),
        spare_tokens=st.sampled_from([4, 0, 10, 24, 60, 400]),
        prefix_caching=st.booleans(),
        kernel=st.sampled_from(subject.kernels.names),
        context=st.sampled_from([CONTEXT, CONTEXT, 40]),
        refused_steps=st.just(frozenset()) | st.frozensets(st.integers(1, 30), min_size=1, max_size=5),
        refused_copies=st.just(frozenset()) | st.frozensets(st.integers(1, 6), min_size=1, max_size=3),
    )


@st.composite
def _limits(draw: st.DrawFn) -> SchedulerLimits:
    places = 7 - draw(st.integers(1, 6))
    return SchedulerLimits(
        max_num_seqs=places,
        max_num_batched_tokens=places + draw(st.sampled_from([0, 3, 9, 20, 60])),
        growth_tokens=draw(st.integers(1, 12)),
        look_ahead=draw(st.integers(0, 3)),
    )
