"""Greedy rows of every family in random schedules, against `generate()` alone on each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from model_worker.batching.scheduler import SchedulerLimits
from model_worker.sequence import SamplingParams
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.asks import Arrive, Ask, Manner, Schedule, Steps
from tests.model_worker.exactness.check import check, explore
from tests.model_worker.exactness.kernels import all_kernels
from tests.model_worker.exactness.oracles import Generate
from tests.model_worker.exactness.stage import Kernels
from tests.model_worker.exactness.strategies import any_schedule, brief_schedule, prompt_pool
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Tally
from tests.model_worker.tiny_models import CONTEXT, FAMILIES, engine_for, tiny_model

# What `generate()` can do too; most often nothing of it.
MANNERS = [
    Manner(),
    Manner(),
    Manner(),
    Manner(min_new_tokens=5),
    Manner(SamplingParams(repetition_penalty=1.4)),
    Manner(SamplingParams(repetition_penalty=0.8, logit_bias=((11, 6.0), (43, -4.0))), min_new_tokens=2),
]
# What random schedules meet again and again in every family: all of it has to come up in a long run.
CONDITIONS = {
    "cancelled", "chunked", "max_new_tokens", "mixed", "moved", "padding", "preempted", "refused", "resumed", "reused",
    "stop_token",
}  # fmt: skip
# In float32 where something else than in float64 is computed: the grouped kernel of experts, the windows of kernels.
ROUNDED = ["llama", "gemma3", "mixtral", "gpt_oss"]
CASES = [
    *((family, torch.float64) for family in FAMILIES),
    *(pytest.param((family, torch.float32), marks=pytest.mark.slow) for family in ROUNDED),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{str(case[1]).removeprefix('torch.')}")
def subject(request: pytest.FixtureRequest, native: NativeLibrary) -> Iterator[Subject]:
    family, dtype = request.param
    exact = dtype == torch.float64
    kernels, oracle = all_kernels(native), Generate({"": tiny_model(family, dtype)})
    with engine_for(tiny_model(family, dtype), kernel=kernels, native=native) as engine:
        yield Subject(
            name=f"greedy {family} {engine.spec.dtype}",
            engine=engine,
            kernels=kernels,
            oracle=oracle,
            prompts=prompt_pool(),
            manners=MANNERS if exact else MANNERS[:1],
            gap=None if exact else oracle.gap,
        )


def test_rows_say_what_generate_says_alone(subject: Subject, tally: Tally) -> None:
    explore(subject, brief_schedule(replace(subject, manners=MANNERS[:1])), tally, 2)


def test_rows_of_every_manner_say_what_generate_says_with_its_parameters_alone(tally: Tally) -> None:
    prompts = prompt_pool()
    asks = [Ask(prompts[5 + 3 * place], manner, stop_at=1) for place, manner in enumerate(MANNERS[2:])]
    schedule = Schedule(
        actions=(Arrive(tuple(asks)), Steps(3), Arrive(tuple(replace(ask, resumed=4) for ask in asks))),
        limits=SchedulerLimits(max_num_seqs=8, max_num_batched_tokens=12),
        spare_tokens=200,
        prefix_caching=True,
        kernel="views",
        context=CONTEXT,
    )
    kernels, oracle = Kernels({"views": ViewAttention()}), Generate({"": tiny_model("llama")})
    with engine_for(tiny_model("llama"), kernel=kernels) as engine:
        subject = Subject("manners of llama float64", engine, kernels, oracle, prompts, manners=MANNERS)
        tally.of(subject.name).add(check(subject, schedule))


@pytest.mark.slow
def test_rows_say_what_generate_says_alone_in_many_schedules(subject: Subject, tally: Tally) -> None:
    seen = explore(subject, any_schedule(subject), tally, 75)
    assert seen.keys() >= CONDITIONS
