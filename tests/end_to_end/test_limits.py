"""When outputs end without a stop string: their own limits, the context, time, ending tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from model_worker.engines.fake_faults import Gate, seconds_per_step
from rpc.seeds import mix64
from rpc.status import to_seconds
from tests.end_to_end.expectation import expect
from tests.end_to_end.heard import hear
from tests.end_to_end.requests import FinishReason, Stopping, generate, generate_tokens
from tests.end_to_end.stack import gated_stack, held, reached, running_stack
from tokenmill.v1 import gateway_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROMPT = [5, 6, 7]
SHORT = Duration(nanos=30_000_000)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    """A model that draws its end-of-sequence token now and then."""
    async with running_stack(tier, model=tier.model(eos_token_ids=frozenset({tier.eos_id}))) as running:
        yield running


async def ended(stack: Stack, prompt: list[int] = PROMPT, **stopping: Any) -> tuple[gateway_pb2.Output, str]:
    """One output, and the name of its reason."""
    answer = await stack.gateway.Generate(generate_tokens(prompt, stopping=Stopping(**stopping)))
    (output,) = answer.outputs
    assert len(output.token_ids) == output.usage.completion_tokens
    return output, FinishReason.Name(output.finish.reason).removeprefix("FINISH_REASON_")


async def test_max_new_tokens_is_reached(stack: Stack) -> None:
    output, reason = await ended(stack, max_new_tokens=7)
    assert (reason, len(output.token_ids)) == ("MAX_NEW_TOKENS", 7)
    assert output.finish.WhichOneof("matched") is None


@pytest.mark.parametrize(
    ("context", "default", "wanted", "tokens", "reason"),
    [
        (2000, 1024, None, 1024, "MAX_NEW_TOKENS"),
        (2000, 16, None, 16, "MAX_NEW_TOKENS"),
        (50, 1024, None, 47, "CONTEXT_LENGTH"),
        (50, 1024, 48, 47, "CONTEXT_LENGTH"),
        (50, 1024, 47, 47, "MAX_NEW_TOKENS"),
        (50, 16, 2**31 - 1, 47, "CONTEXT_LENGTH"),
    ],
)
async def test_the_bound_of_an_output_is_what_started_and_the_model_say(
    tier: TokenizerTier, context: int, default: int, wanted: int | None, tokens: int, reason: str
) -> None:
    model = tier.model(context_length=context)
    async with running_stack(tier, model=model, gateway={"default_max_new_tokens": default}) as stack:
        request = generate_tokens(PROMPT, stopping=Stopping(max_new_tokens=wanted))
        heard = await hear(stack.gateway.StreamGenerate(request))
        assert heard.started is not None
        assert list(heard.started.max_new_tokens) == [tokens]
        assert len(heard.token_ids[0]) == tokens
        assert FinishReason.Name(heard.ends[0].finish.reason) == f"FINISH_REASON_{reason}"
        described = (await stack.gateway.GetModel(gateway_pb2.GetModelRequest())).model
        assert described.default_max_new_tokens == min(default, context)


async def test_the_end_of_the_sequence_ends_the_output_and_counts_as_a_token(stack: Stack) -> None:
    eos = stack.tier.eos_id
    prompt = drawing(stack, eos, at=2)
    output, reason = await ended(stack, prompt, max_new_tokens=10)
    assert (reason, output.finish.stop_token_id) == ("END_OF_SEQUENCE", eos)
    assert list(output.token_ids) == expect(stack, prompt).ids
    assert output.token_ids[2] == eos
    assert "</s>" not in output.text


async def test_ignore_eos_goes_on(stack: Stack) -> None:
    prompt = drawing(stack, stack.tier.eos_id, at=2)
    output, reason = await ended(stack, prompt, max_new_tokens=10, ignore_eos=True)
    assert (reason, len(output.token_ids)) == ("MAX_NEW_TOKENS", 10)


async def test_min_new_tokens_forbids_ending_tokens_before_it(stack: Stack) -> None:
    eos = stack.tier.eos_id
    prompt = drawing(stack, eos, at=2)
    output, _ = await ended(stack, prompt, max_new_tokens=10, min_new_tokens=5)
    assert list(output.token_ids) == expect(stack, prompt, min_new_tokens=5).ids
    assert eos not in output.token_ids[:5]


async def test_a_stop_token_ends_the_output_and_is_named(stack: Stack) -> None:
    third = expect(stack, PROMPT).ids[2]
    output, reason = await ended(stack, max_new_tokens=10, stop_token_ids=[third, 400])
    assert (reason, output.finish.stop_token_id) == ("STOP_TOKEN", third)
    assert list(output.token_ids) == expect(stack, PROMPT).ids[:3]


def drawing(stack: Stack, token_id: int, at: int) -> list[int]:
    """A prompt after which `token_id` is drawn as the token number `at`, and not before."""
    for last in range(10, 400):
        ids = expect(stack, [5, last], ignore_eos=True).ids
        if token_id in ids and ids.index(token_id) == at:
            return [5, last]
    raise AssertionError("no such prompt")


class TestTimeLimit:
    async def test_in_the_middle_of_an_output_it_ends_with_what_there_is(self, tier: TokenizerTier) -> None:
        async with running_stack(tier, seconds_per_step(0.005)) as stack:
            output, reason = await ended(stack, max_new_tokens=2000, time_limit=Duration(nanos=500_000_000))
            assert reason == "TIME_LIMIT"
            assert 0 < len(output.token_ids) < 2000
            assert output.text == expect(stack, PROMPT, max_new_tokens=len(output.token_ids)).text
            assert to_seconds(output.timing.total) >= 0.5
            await stack.idle()

    async def test_in_the_workers_queue_it_ends_with_nothing(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate, worker={"max_num_seqs": 1}) as stack:
            first = stack.gateway.Generate(generate_tokens(PROMPT, stopping=Stopping(max_new_tokens=1000)))
            await reached(gate)
            submitted = spied_submit(stack)
            second = stack.gateway.StreamGenerate(
                generate_tokens(PROMPT, PROMPT, stopping=Stopping(time_limit=Duration(nanos=1)))
            )
            await submitted.wait()
            gate.open()
            heard = await hear(second)
            assert heard.started is not None
            assert {end.finish.reason for end in heard.ends.values()} == {FinishReason.FINISH_REASON_TIME_LIMIT}
            assert sorted(heard.ends) == [0, 1]
            assert heard.token_ids == {}
            assert (await first).usage.completion_tokens == 1000

    async def test_in_the_gateways_queue_it_ends_with_nothing(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate, gateway={"max_inflight": 1}) as stack:
            first = stack.gateway.Generate(generate_tokens(PROMPT))
            await reached(gate)
            heard = await hear(
                stack.gateway.StreamGenerate(generate("a text", n=2, stopping=Stopping(time_limit=SHORT)))
            )
            assert heard.started is not None
            assert {end.finish.reason for end in heard.ends.values()} == {FinishReason.FINISH_REASON_TIME_LIMIT}
            assert heard.ends[1].finish.seed == mix64(heard.started.sampling.seed, 1)
            gate.open()
            assert (await first).usage.completion_tokens == 10

    async def test_while_tokenizing_it_ends_with_nothing_and_nothing_reaches_the_worker(self, stack: Stack) -> None:
        before = (await stack.idle()).step
        async with held(stack.tier.service):
            answer = await stack.gateway.Generate(generate("a text", stopping=Stopping(time_limit=SHORT)))
        assert answer.outputs[0].finish.reason == FinishReason.FINISH_REASON_TIME_LIMIT
        assert answer.outputs[0].text == ""
        assert (await stack.idle()).step == before
        assert stack.inflight == 0

    async def test_the_longest_duration_there_is_is_no_limit(self, stack: Stack) -> None:
        output, reason = await ended(stack, max_new_tokens=5, time_limit=Duration(seconds=315_576_000_000))
        assert (reason, len(output.token_ids)) == ("MAX_NEW_TOKENS", 5)


def spied_submit(stack: Stack) -> asyncio.Event:
    """Set once the worker has queued the rows of a request."""
    submitted = asyncio.Event()
    loop = stack.worker_service._generation
    assert loop is not None
    submit = loop.submit

    def spy(rows: Any) -> Any:
        stream = submit(rows)
        submitted.set()
        return stream

    loop.submit = spy
    return submitted
