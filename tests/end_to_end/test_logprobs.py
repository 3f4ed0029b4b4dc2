"""Log-probabilities through the whole chain: what the engine says of each token, once, beside the token it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from rpc.seeds import mix64
from tests.end_to_end.expectation import chat_ids, expect, ids_of
from tests.end_to_end.heard import Heard, hear, refusal
from tests.end_to_end.requests import FinishReason, OutputOptions, Sampling, Stopping, chat, generate, generate_tokens
from tests.end_to_end.stack import SMALL_WINDOW, Stack, address, running_stack
from tests.end_to_end.worker_calls import ask, hear_rows, start
from tests.gateway.artefacts_for_tests import artefact_of
from tests.model_worker.generation_support import expected_logprobs
from tests.model_worker.generation_support import ids_of as array_of
from tokenmill.v1 import gateway_pb2_grpc, generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
FOX, COLORS = "The quick brown fox", "A list of colors: red, blue"
EVERYTHING = OutputOptions(
    logprobs=True, prompt_logprobs=True, top_logprobs=3, token_ids=True, keep_special_tokens=True
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    """A worker whose steps are so small that most prompts take several."""
    async with running_stack(tier, worker={"max_num_batched_tokens": 8, "max_num_seqs": 8}) as running:
        yield running


def wanted_of(stack: Stack, prompt: Sequence[int], tokens: list[int], top: int | None) -> list[Any]:
    """What is to be said of `tokens`, which follow `prompt`; the text of each is that of the artefact."""
    text_of = artefact_of(stack.tier.tokenizer).token_text
    told = expected_logprobs(array_of(*prompt), tokens, top, stack.model)

    def message(one: Any) -> generation_pb2.TokenLogprob:
        return generation_pb2.TokenLogprob(
            token_id=one.token_id,
            text=text_of(one.token_id),
            logprob=one.logprob,
            rank=one.rank,
            alternatives=[message(other) for other in one.alternatives],
        )

    return [message(one) for one in told]


async def test_a_stream_and_an_answer_say_the_same_of_every_token(stack: Stack) -> None:
    request = generate(FOX, COLORS, n=2, sampling=Sampling(seed=42), output=EVERYTHING)
    heard, answer = await hear(stack.gateway.StreamGenerate(request)), await stack.gateway.Generate(request)
    for index, output in enumerate(answer.outputs):
        number, sample = divmod(index, 2)
        prompt = ids_of(stack, (FOX, COLORS)[number])
        expectation = expect(stack, prompt, seed=mix64(42, sample))
        assert list(output.token_ids) == heard.token_ids[index] == expectation.ids
        assert list(output.logprobs) == heard.logprobs[index] == wanted_of(stack, prompt, expectation.ids, 3)
        of_prompt = wanted_of(stack, prompt[:1], prompt[1:], 3) if sample == 0 else []
        assert list(output.prompt_logprobs) == heard.prompt_logprobs[index] == of_prompt
        assert b"".join(told.text for told in output.logprobs).decode(errors="replace") == output.text


async def test_a_chat_has_them_too(stack: Stack) -> None:
    request = chat(output=OutputOptions(logprobs=True, prompt_logprobs=True))
    (output,) = (await stack.gateway.Chat(request)).outputs
    prompt = chat_ids(stack, "A list of colors")
    assert list(output.prompt_logprobs) == wanted_of(stack, prompt[:1], prompt[1:], 0)
    assert output.prompt_logprobs[0].token_id == prompt[1], "the first token has none"
    assert list(output.logprobs) == wanted_of(stack, prompt, expect(stack, prompt).ids, 0)
    assert not output.token_ids, "not asked for"
    literals = [told.text for told in output.prompt_logprobs if told.text.startswith(b"<|")]
    assert literals == [b"<|turn_end|>", b"<|turn_start|>"]


async def test_nothing_is_said_of_tokens_that_nobody_asked_about(stack: Stack) -> None:
    (output,) = (await stack.gateway.Generate(generate(FOX))).outputs
    assert not output.logprobs
    assert not output.prompt_logprobs
    (output,) = (await stack.gateway.Generate(generate(FOX, output=OutputOptions(prompt_logprobs=True)))).outputs
    assert not output.logprobs
    assert len(output.prompt_logprobs) == len(ids_of(stack, FOX)) - 1


async def test_they_end_with_the_token_that_completes_a_stop_string(stack: Stack) -> None:
    prompt = ids_of(stack, FOX)
    free = expect(stack, prompt, max_new_tokens=60)
    stop = free.text[31:34]
    request = generate(FOX, stopping=Stopping(max_new_tokens=60, stop_strings=[stop]), output=EVERYTHING)
    heard, answer = await hear(stack.gateway.StreamGenerate(request)), await stack.gateway.Generate(request)
    (output,) = answer.outputs
    assert output.finish.reason == FinishReason.FINISH_REASON_STOP_STRING
    assert output.usage.completion_tokens == len(output.token_ids) == len(output.logprobs) < 60
    assert list(output.logprobs) == heard.logprobs[0] == wanted_of(stack, prompt, free.ids, 3)[: len(output.logprobs)]
    assert stop in b"".join(told.text for told in output.logprobs).decode(errors="replace")
    assert stop not in output.text


async def test_the_token_that_ends_an_output_has_one(stack: Stack) -> None:
    prompt = ids_of(stack, FOX)
    stopping = Stopping(max_new_tokens=10, stop_token_ids=[expect(stack, prompt).ids[4]])
    (output,) = (await stack.gateway.Generate(generate(FOX, stopping=stopping, output=EVERYTHING))).outputs
    assert output.finish.reason == FinishReason.FINISH_REASON_STOP_TOKEN
    assert [told.token_id for told in output.logprobs] == list(output.token_ids) == expect(stack, prompt).ids[:5]


async def test_a_slow_reader_gets_them_in_few_messages_of_bounded_size(tier: TokenizerTier) -> None:
    count = 1000
    async with running_stack(tier) as stack:
        channel = grpc.aio.insecure_channel(address(stack.gateway_server), options=SMALL_WINDOW)
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        output = OutputOptions(logprobs=True, top_logprobs=20, token_ids=True)
        call = stub.StreamGenerate(generate_tokens([5, 6], stopping=Stopping(max_new_tokens=count), output=output))
        heard, sizes = Heard(), []
        heard.take(await call.read())
        await stack.worker_server.calls.are(0)  # generated to its end, though nobody reads it
        while (response := await call.read()) is not grpc.aio.EOF:
            heard.take(response)
            sizes.append(response.ByteSize())
            assert [told.token_id for told in response.delta.logprobs] == list(response.delta.token_ids)
        await channel.close()
        expectation = expect(stack, [5, 6], max_new_tokens=count)
        assert heard.token_ids[0] == expectation.ids
        assert heard.logprobs[0] == wanted_of(stack, [5, 6], expectation.ids, 20)
        assert heard.texts[0] == expectation.text
    assert max(sizes) < 2**20
    assert len(sizes) < count / 10, "they were merged"


async def test_more_than_a_message_could_hold_are_refused_before_anything_is_computed(stack: Stack) -> None:
    before = (await stack.idle()).step
    output = OutputOptions(logprobs=True, top_logprobs=20)
    for call in (stack.gateway.Generate, stack.gateway.StreamGenerate):
        heard = await refusal(call(generate(FOX, n=64, stopping=Stopping(), output=output)))
        assert (heard.code, heard.field) == (grpc.StatusCode.INVALID_ARGUMENT, "output.logprobs")
        assert heard.reason == "TOO_MANY_LOGPROBS"
    assert (await stack.idle()).step == before


async def test_a_worker_says_them_without_text_and_before_the_first_token_those_of_the_prompt(stack: Stack) -> None:
    row = worker_pb2.RowParams(max_new_tokens=10, output=EVERYTHING)
    heard = await hear_rows(ask(stack, start(stack, [list(range(1, 30)), [7, 8]], rows=[row, row])))
    for index, prompt in enumerate((list(range(1, 30)), [7, 8])):
        for told, wanted in (
            (heard.logprobs[index], wanted_of(stack, prompt, expect(stack, prompt).ids, 3)),
            (heard.prompt_logprobs[index], wanted_of(stack, prompt[:1], prompt[1:], 3)),
        ):
            for one in wanted:
                for other in (one, *one.alternatives):
                    other.ClearField("text")
            assert told == wanted
