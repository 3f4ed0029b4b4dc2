"""Rows that fail among rows that do not: what the others say is what they say alone.

Rows fail for logits that are no numbers, or for an exception while they are sampled; steps and copies run out of
memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import strategies as st
from transformers import PreTrainedModel

from model_worker.sequence import SamplingParams
from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.asks import MOST_NEW_TOKENS, Ask, Manner, Schedule
from tests.model_worker.exactness.check import explore
from tests.model_worker.exactness.kernels import all_kernels
from tests.model_worker.exactness.oracles import Generate
from tests.model_worker.exactness.strategies import asks, prompt_pool, schedules
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Tally
from tests.model_worker.tiny_models import engine_for, tiny_model

POISON = 2  # in no prompt
# Parameters that are none: a request is checked long before, so nothing else raises so deep inside. The second is not
# looked at before something was generated, so that row has lent its K/V to others when it fails.
BROKEN = {
    0: Manner(SamplingParams(logit_bias=(("no id", 1.0),))),  # type: ignore[arg-type]
    1: Manner(SamplingParams(frequency_penalty="no number")),  # type: ignore[arg-type]
}


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("gemma2", "mixtral", "gpt_oss")]


def mute(model: PreTrainedModel) -> PreTrainedModel:
    """Let the model never say POISON. Its head is not the embedding."""
    assert not model.config.tie_word_embeddings
    with torch.no_grad():
        model.get_output_embeddings().weight[POISON] = 0
    return model


@pytest.fixture(scope="module", params=["llama", *SLOW])
def subject(request: pytest.FixtureRequest, native: NativeLibrary) -> Iterator[Subject]:
    served, kernels = mute(tiny_model(request.param)), all_kernels(native)
    with torch.no_grad():
        served.get_input_embeddings().weight[POISON] = torch.nan
    with engine_for(served, kernel=kernels, native=native) as engine:
        yield Subject(
            name=f"failures {request.param} {engine.spec.dtype}",
            engine=engine,
            kernels=kernels,
            oracle=Generate({"": mute(tiny_model(request.param))}),
            prompts=prompt_pool(),
        )


def unsampled(ask: Ask, after: int) -> Ask:
    """The same, but that an exception comes after so many tokens."""
    never_ends = {"stop_at": None, "ignore_eos": True, "new_tokens": MOST_NEW_TOKENS}
    return replace(ask, manner=BROKEN[after], failure="SAMPLING_FAILED", fails_after=after, **never_ends)


def poisoned(ask: Ask, back: int) -> Ask:
    """The same with POISON in its prompt and so many tokens behind it: fewer than the smallest window."""
    place = max(0, len(ask.prompt) - back)
    prompt = (*ask.prompt[:place], POISON, *ask.prompt[place:])
    return replace(ask, prompt=prompt, failure="LOGITS_NOT_FINITE")


def faulty(subject: Subject) -> st.SearchStrategy[Schedule]:
    sound = asks(subject)
    broken = st.builds(unsampled, sound, st.sampled_from([1, 0])) | st.builds(poisoned, sound, st.integers(0, 7))
    return schedules(subject, st.sampled_from([sound, sound, broken]).flatmap(lambda rows: rows), least_rows=2)


def test_rows_fail_alone(subject: Subject, tally: Tally) -> None:
    explore(subject, faulty(subject), tally, 3)


@pytest.mark.slow
def test_rows_fail_alone_in_many_schedules(subject: Subject, tally: Tally) -> None:
    seen = explore(subject, faulty(subject), tally, 75)
    assert seen.keys() >= {"logits_not_finite", "sampling_failed", "refused", "reused"}
