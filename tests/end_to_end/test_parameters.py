"""What a caller says about sampling, and whose a request is, as the engine sees it: nothing lost, nothing made up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from model_worker.engine import GenerationDefaults
from model_worker.sequence import RowParams, SamplingParams
from rpc.seeds import mix64
from tests.end_to_end.heard import hear
from tests.end_to_end.requests import OutputOptions, Sampling, Stopping, chat, effective, generate
from tests.end_to_end.stack import NAME, Stack, running_stack
from tokenmill.v1 import gateway_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from model_worker.engine import Segment
    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
# The model's own generation_config.json: does not ask for sampling, but writes how it would.
WRITES = GenerationDefaults(top_p=0.5, min_p=0.125, typical_p=0.75, repetition_penalty=1.25)


class Recorder:
    """Notes the parameters of every row that the engine sees."""

    def __init__(self) -> None:
        self.seen: list[RowParams] = []

    def __call__(self, step: int, segments: Sequence[Segment]) -> None:
        self.seen += [segment.sequence.params for segment in segments if segment.start == 0]


@asynccontextmanager
async def recorded(tier: TokenizerTier, **model: Any) -> AsyncIterator[tuple[Stack, list[RowParams]]]:
    recorder = Recorder()
    async with running_stack(tier, recorder, model=tier.model(**model), worker={"max_num_seqs": 4}) as stack:
        recorder.seen.clear()  # of the warm-up
        yield stack, recorder.seen


async def test_the_engine_sees_every_parameter_as_it_was_given(tier: TokenizerTier) -> None:
    sampling = Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        typical_p=0.75,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        seed=42,
        logit_bias={9: -100.0, 3: 2.5},
    )
    given = {
        "sampling": sampling,
        "stopping": Stopping(max_new_tokens=6, min_new_tokens=2, stop_token_ids=[3], ignore_eos=True),
        "output": OutputOptions(logprobs=True, prompt_logprobs=True, top_logprobs=4),
        "cache_salt": "mine",
        "n": 2,
    }
    async with recorded(tier) as (stack, seen):
        for request in (generate(**given), chat(**given)):
            seen.clear()
            call = (
                stack.gateway.StreamChat
                if isinstance(request, gateway_pb2.ChatRequest)
                else stack.gateway.StreamGenerate
            )
            started = (await hear(call(request))).started
            told = Sampling()
            told.CopyFrom(sampling)
            told.ClearField("logit_bias")
            assert started.sampling == told
            by_sample = {params.sampling.seed: params for params in seen}
            assert set(by_sample) <= {42, mix64(42, 1)}
            assert by_sample[42] == RowParams(
                sampling=SamplingParams(0.5, 7, 0.25, 0.125, 0.75, 1.5, -0.5, 0.25, ((3, 2.5), (9, -100.0)), 42),
                stop_token_ids=frozenset({3}),
                ignore_eos=True,
                min_new_tokens=2,
                max_new_tokens=6,
                logprobs=4,
                prompt_logprobs=4,
                cache_salt="mine",
            )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Sampling(), effective(repetition_penalty=1.25)),
        (
            Sampling(temperature=1),
            effective(temperature=1, top_p=0.5, min_p=0.125, typical_p=0.75, repetition_penalty=1.25),
        ),
        (Sampling(temperature=1, top_p=1, min_p=0, typical_p=1, repetition_penalty=1), effective(temperature=1)),
        (Sampling(presence_penalty=1), effective(presence_penalty=1, repetition_penalty=1.25)),
    ],
    ids=["nothing", "sampling", "all off", "a penalty is not sampling"],
)
async def test_what_the_models_own_file_says_is_inherited_and_told(
    tier: TokenizerTier, given: Any, wanted: Any
) -> None:
    async with recorded(tier, defaults=WRITES) as (stack, seen):
        started = (await hear(stack.gateway.StreamGenerate(generate(sampling=given)))).started
        started.sampling.ClearField("seed")
        assert started.sampling == wanted
        sampling = seen[0].sampling
        assert (sampling.temperature, sampling.repetition_penalty) == (wanted.temperature, wanted.repetition_penalty)
        assert (sampling.top_p, sampling.min_p, sampling.typical_p) == (wanted.top_p, wanted.min_p, wanted.typical_p)
        model = (await stack.gateway.GetModel(gateway_pb2.GetModelRequest(model=NAME))).model
        assert model.default_sampling == effective(repetition_penalty=1.25)


async def test_rows_of_different_salts_share_nothing(tier: TokenizerTier) -> None:
    async with running_stack(tier) as stack:
        cached = []
        for salt in ("", "mine", "yours", "mine", ""):
            answer = await stack.gateway.Generate(generate(cache_salt=salt))
            cached.append(answer.usage.cached_prompt_tokens > 0)
        assert cached == [False, False, False, True, True]
