"""Rows with seeds, filters, penalties and log-probabilities, each in any schedule what it is alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from model_worker.sequence import SamplingParams
from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.asks import Manner
from tests.model_worker.exactness.check import explore
from tests.model_worker.exactness.kernels import all_kernels
from tests.model_worker.exactness.oracles import Alone
from tests.model_worker.exactness.strategies import any_schedule, brief_schedule, prompt_pool
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Tally
from tests.model_worker.tiny_models import engine_for, tiny_model

MANNERS = [
    Manner(),
    Manner(SamplingParams(temperature=1.0)),
    Manner(SamplingParams(temperature=2.5), logprobs=0),
    Manner(SamplingParams(temperature=1.5, top_k=20, top_p=0.9), logprobs=3),
    Manner(SamplingParams(temperature=3.0, min_p=0.01), min_new_tokens=4),
    Manner(SamplingParams(temperature=2.0, typical_p=0.8), prompt_logprobs=2),
    Manner(SamplingParams(temperature=1.2, top_k=1)),
    Manner(SamplingParams(temperature=2.0, repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.4)),
    Manner(SamplingParams(temperature=4.0, top_p=0.7, logit_bias=((11, 6.0), (43, -4.0)))),
    Manner(SamplingParams(presence_penalty=1.5, frequency_penalty=1.0), logprobs=2, prompt_logprobs=0),
]


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("gemma2", "mixtral", "gpt2")]


@pytest.fixture(scope="module", params=["llama", *SLOW])
def subject(request: pytest.FixtureRequest, native: NativeLibrary) -> Iterator[Subject]:
    kernels = all_kernels(native)
    with engine_for(tiny_model(request.param), kernel=kernels, native=native) as engine:
        yield Subject(
            name=f"sampling {request.param} {engine.spec.dtype}",
            engine=engine,
            kernels=kernels,
            oracle=Alone(engine),
            prompts=prompt_pool(),
            manners=MANNERS,
        )


def test_rows_draw_what_they_draw_alone(subject: Subject, tally: Tally) -> None:
    explore(subject, brief_schedule(subject), tally, 2)


@pytest.mark.slow
def test_rows_draw_what_they_draw_alone_in_many_schedules(subject: Subject, tally: Tally) -> None:
    explore(subject, any_schedule(subject), tally, 100)
