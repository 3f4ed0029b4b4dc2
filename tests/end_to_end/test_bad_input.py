"""Bad input at the gateway: the code, the field, nothing scheduled, nothing else disturbed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from tests.end_to_end.heard import Refusal, refusal
from tests.end_to_end.requests import OutputOptions, Sampling, Stopping, chat, generate, generate_tokens, message
from tests.end_to_end.stack import Stack, running_stack
from tokenmill.v1 import gateway_pb2, generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
CODE = grpc.StatusCode
CONTEXT = 64


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    """A model with a short context, and a cache that holds less than two of them."""
    async with running_stack(tier, model=tier.model(context_length=CONTEXT, kv_capacity_tokens=100)) as running:
        yield running


def call(stack: Stack, request: Any, *, stream: bool) -> Any:
    if isinstance(request, gateway_pb2.ChatRequest):
        return (stack.gateway.StreamChat if stream else stack.gateway.Chat)(request)
    return (stack.gateway.StreamGenerate if stream else stack.gateway.Generate)(request)


async def refused(stack: Stack, request: Any, *, stream: bool) -> Refusal:
    """The refusal; the worker has computed nothing meanwhile, and the next request is answered."""
    before = (await stack.idle()).step
    heard = await refusal(call(stack, request, stream=stream))
    assert (await stack.idle()).step == before, "something was computed"
    assert stack.inflight == 0
    answer = await stack.gateway.Generate(generate(stopping=Stopping(max_new_tokens=1)))
    assert answer.usage.completion_tokens == 1
    return heard


def sampling(**given: Any) -> gateway_pb2.GenerateRequest:
    return generate(sampling=Sampling(**given))


def stopping(**given: Any) -> gateway_pb2.GenerateRequest:
    return generate(stopping=Stopping(**given))


INVALID: dict[str, tuple[Any, str]] = {
    "no input": (gateway_pb2.GenerateRequest(), "input"),
    "no text": (gateway_pb2.GenerateRequest(prompts=gateway_pb2.TextPrompts()), "prompts.texts"),
    "an empty text": (generate("one", ""), "prompts.texts[1]"),
    "no token prompt": (generate_tokens(), "token_prompts.prompts"),
    "an empty token prompt": (generate_tokens([1], []), "token_prompts.prompts[1].ids"),
    "an id outside the vocabulary": (generate_tokens([1], [1, 5000]), "token_prompts.prompts[1].ids"),
    "an id that is no int32": (generate_tokens([2**32 - 1]), "token_prompts.prompts[0].ids"),
    "no message": (gateway_pb2.ChatRequest(), "messages"),
    "an unknown role": (chat(message(), message(role="wizard")), "messages[1].role"),
    "no role": (chat(message(role="")), "messages[0].role"),
    "an answer to no call": (chat(message(tool_call_id="7")), "messages[0].tool_call_id"),
    "a user who calls tools": (chat(message(tool_calls=[gateway_pb2.ToolCall(id="7")])), "messages[0].tool_calls"),
    "arguments that are no JSON": (
        chat(message(role="assistant", tool_calls=[gateway_pb2.ToolCall(name="clock", arguments='{"zone": ')])),
        "messages[0].tool_calls[0].arguments",
    ),
    "arguments that are no object": (
        chat(message(role="assistant", tool_calls=[gateway_pb2.ToolCall(name="clock", arguments="[1]")])),
        "messages[0].tool_calls[0].arguments",
    ),
    "both ends of a message": (
        chat(continue_final_message=True, add_generation_prompt=True),
        "continue_final_message",
    ),
    "temperature below 0": (sampling(temperature=-0.1), "sampling.temperature"),
    "temperature over 100": (sampling(temperature=101), "sampling.temperature"),
    "temperature not a number": (sampling(temperature=math.nan), "sampling.temperature"),
    "temperature infinite": (sampling(temperature=math.inf), "sampling.temperature"),
    "top_p 0": (sampling(top_p=0), "sampling.top_p"),
    "top_p over 1": (sampling(top_p=1.01), "sampling.top_p"),
    "top_p not a number": (sampling(top_p=math.nan), "sampling.top_p"),
    "top_k below 0": (sampling(top_k=-1), "sampling.top_k"),
    "min_p below 0": (sampling(min_p=-0.1), "sampling.min_p"),
    "min_p over 1": (sampling(min_p=1.01), "sampling.min_p"),
    "typical_p 0": (sampling(typical_p=0), "sampling.typical_p"),
    "typical_p not a number": (sampling(typical_p=math.nan), "sampling.typical_p"),
    "repetition_penalty 0": (sampling(repetition_penalty=0), "sampling.repetition_penalty"),
    "repetition_penalty over 10": (sampling(repetition_penalty=10.1), "sampling.repetition_penalty"),
    "presence_penalty below -2": (sampling(presence_penalty=-2.1), "sampling.presence_penalty"),
    "frequency_penalty over 2": (sampling(frequency_penalty=2.1), "sampling.frequency_penalty"),
    "a bias over 100": (sampling(logit_bias={3: 100.5}), "sampling.logit_bias"),
    "a bias that is no number": (sampling(logit_bias={3: math.nan}), "sampling.logit_bias"),
    "a bias outside the vocabulary": (sampling(logit_bias={5000: 1}), "sampling.logit_bias"),
    "1025 biases": (sampling(logit_bias=dict.fromkeys(range(1025), 1.0)), "sampling.logit_bias"),
    "max_new_tokens 0": (stopping(max_new_tokens=0), "stopping.max_new_tokens"),
    "max_new_tokens below 0": (stopping(max_new_tokens=-5), "stopping.max_new_tokens"),
    "min_new_tokens below 0": (stopping(min_new_tokens=-1), "stopping.min_new_tokens"),
    "min over max": (stopping(min_new_tokens=6, max_new_tokens=5), "stopping.min_new_tokens"),
    "min over what is left": (stopping(min_new_tokens=CONTEXT), "stopping.min_new_tokens"),
    "nine stop strings": (stopping(stop_strings=[str(number) for number in range(9)]), "stopping.stop_strings"),
    "an empty stop string": (stopping(stop_strings=["a", ""]), "stopping.stop_strings[1]"),
    "a stop string of 241 bytes": (stopping(stop_strings=["é" * 120 + "e"]), "stopping.stop_strings[0]"),
    "65 stop ids": (stopping(stop_token_ids=range(65)), "stopping.stop_token_ids"),
    "a stop id outside the vocabulary": (stopping(stop_token_ids=[3, 5000]), "stopping.stop_token_ids"),
    "no time": (stopping(time_limit=Duration()), "stopping.time_limit"),
    "less than no time": (stopping(time_limit=Duration(seconds=-1)), "stopping.time_limit"),
    "more time than a duration may be": (stopping(time_limit=Duration(seconds=2**63 - 1)), "stopping.time_limit"),
    "n 0": (generate(n=0), "n"),
    "n below 0": (generate(n=-1), "n"),
    "n over 64": (generate(n=65), "n"),
    "n x prompts over 64": (generate("one", "two", n=33), "n"),
    "65 prompts": (generate(*["one"] * 65), "n"),
    "truncation to nothing": (generate(truncate_prompt_tokens=0), "truncate_prompt_tokens"),
    "truncation below 0": (chat(truncate_prompt_tokens=-1), "truncate_prompt_tokens"),
    "a long salt": (generate(cache_salt="é" * 65), "cache_salt"),
    "top_logprobs over 20": (generate(output=OutputOptions(top_logprobs=21)), "output.top_logprobs"),
    "top_logprobs of nothing": (generate(output=OutputOptions(top_logprobs=1)), "output.top_logprobs"),
    "top_logprobs below 0": (generate(output=OutputOptions(top_logprobs=-1)), "output.top_logprobs"),
    "a reserved template variable": (
        chat(template_kwargs={"messages": "mine"}),
        "template_kwargs.messages",
    ),
}


@pytest.mark.parametrize("name", INVALID)
async def test_an_invalid_request_is_refused_naming_the_field(stack: Stack, name: str) -> None:
    request, field = INVALID[name]
    heard = await refused(stack, request, stream=True)
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, field)
    assert heard.message.startswith(f"{field}: ")
    assert "start." not in heard.message
    assert heard.retry_after_seconds is None


@pytest.mark.parametrize("request_", [generate("one", ""), chat(message(role=""))], ids=["generate", "chat"])
async def test_unary_calls_refuse_as_streams_do(stack: Stack, request_: Any) -> None:
    assert await refused(stack, request_, stream=False) == await refused(stack, request_, stream=True)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generate("short", "word " * 60), "prompts.texts[1]"),
        (generate_tokens([1], list(range(CONTEXT))), "token_prompts.prompts[1].ids"),
        (chat(message("word " * 60)), "messages"),
    ],
    ids=["text", "tokens", "chat"],
)
async def test_a_prompt_over_the_context_is_refused_with_both_counts(stack: Stack, request_: Any, field: str) -> None:
    heard = await refused(stack, request_, stream=True)
    assert (heard.code, heard.reason) == (CODE.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED")
    assert heard.field == field
    count_request = gateway_pb2.CountTokensRequest(
        **{"chat" if isinstance(request_, gateway_pb2.ChatRequest) else "generate": request_}
    )
    counts = await stack.gateway.CountTokens(count_request)
    assert f"{counts.prompt_tokens[-1]} tokens" in heard.message
    assert str(CONTEXT) in heard.message


async def test_a_prompt_that_fills_the_context_but_for_one_token_is_taken(stack: Stack) -> None:
    answer = await stack.gateway.Generate(generate_tokens(list(range(CONTEXT - 1))))
    assert answer.outputs[0].finish.reason == generation_pb2.FINISH_REASON_CONTEXT_LENGTH
    assert answer.usage.completion_tokens == 1


TEMPLATES: dict[str, tuple[gateway_pb2.ChatRequest, str]] = {
    "refuses": (chat(message(role="tool")), "this model knows no tools"),
    "fails": (chat(template_kwargs={"nothing": "is defined"}), "of_this_kind"),
}


@pytest.mark.parametrize("name", TEMPLATES)
async def test_a_template_that_fails_says_so_in_its_own_words(stack: Stack, name: str) -> None:
    request, words = TEMPLATES[name]
    heard = await refused(stack, request, stream=True)
    assert (heard.code, heard.reason, heard.field) == (CODE.INVALID_ARGUMENT, "TEMPLATE_FAILED", "messages")
    assert words in heard.message


@pytest.mark.parametrize("request_", [generate(model="other"), chat(model="other")], ids=["generate", "chat"])
async def test_an_unknown_model_is_not_found(stack: Stack, request_: Any) -> None:
    heard = await refused(stack, request_, stream=True)
    assert (heard.code, heard.reason, heard.field) == (CODE.NOT_FOUND, "UNKNOWN_MODEL", "model")
    heard = await refusal(stack.gateway.GetModel(gateway_pb2.GetModelRequest(model="other")))
    assert (heard.code, heard.field) == (CODE.NOT_FOUND, "model")


COUNTS: dict[str, tuple[gateway_pb2.CountTokensRequest, str]] = {
    "nothing": (gateway_pb2.CountTokensRequest(), "request"),
    "a bad role": (gateway_pb2.CountTokensRequest(chat=chat(message(role="wizard"))), "chat.messages[0].role"),
    "an empty text": (gateway_pb2.CountTokensRequest(generate=generate("")), "generate.prompts.texts[0]"),
    "a template that fails": (gateway_pb2.CountTokensRequest(chat=chat(message(role="tool"))), "chat.messages"),
    "an id outside the vocabulary": (
        gateway_pb2.CountTokensRequest(generate=generate_tokens([5000])),
        "generate.token_prompts.prompts[0].ids",
    ),
}


@pytest.mark.parametrize("name", COUNTS)
async def test_counting_refuses_with_the_path_inside_its_own_request(stack: Stack, name: str) -> None:
    request, field = COUNTS[name]
    heard = await refusal(stack.gateway.CountTokens(request))
    assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, field)
    assert heard.message.startswith(f"{field}: ")


async def test_what_needs_more_of_the_cache_than_there_is_is_refused_naming_a_field_of_the_request(
    tier: TokenizerTier,
) -> None:
    model = tier.model(context_length=CONTEXT, kv_capacity_tokens=32)
    async with running_stack(tier, model=model) as stack:
        heard = await refused(stack, stopping(max_new_tokens=50), stream=True)
    assert (heard.code, heard.reason) == (CODE.INVALID_ARGUMENT, "CAPACITY_EXCEEDED")
    assert heard.field == "stopping.max_new_tokens"
    assert heard.message.startswith("stopping.max_new_tokens: ")


BROKEN = {
    "not protobuf": b"\xff\xff\xff\xff",
    "not UTF-8": gateway_pb2.GenerateRequest(model="xx").SerializeToString().replace(b"xx", b"\xc3\x28"),
    "cut off": generate("a text of some length").SerializeToString()[:10],
}


@pytest.mark.parametrize("method", ["Generate", "StreamGenerate", "Chat", "StreamChat", "CountTokens", "GetModel"])
@pytest.mark.parametrize("name", BROKEN)
async def test_bytes_that_are_no_message_are_an_invalid_argument(stack: Stack, name: str, method: str) -> None:
    path = f"/tokenmill.v1.InferenceService/{method}"
    channel = stack.gateway_channel
    open_call = channel.unary_stream if method.startswith("Stream") else channel.unary_unary
    heard = await refusal(open_call(path)(BROKEN[name]))
    assert (heard.code, heard.reason) == (CODE.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_of_both_members_of_a_oneof_the_last_one_counts_as_protobuf_says(stack: Stack) -> None:
    both = generate("one", "two").SerializeToString() + generate_tokens([1, 2, 3]).SerializeToString()
    raw = await stack.gateway_channel.unary_unary("/tokenmill.v1.InferenceService/Generate")(both)
    assert gateway_pb2.GenerateResponse.FromString(raw).usage.prompt_tokens == 3


async def test_a_struct_of_a_hundred_levels_is_refused_and_harms_nobody(stack: Stack) -> None:
    deep = Struct()
    inner = deep
    for _ in range(90):
        inner = inner.fields["a"].struct_value
    inner["end"] = 1
    raw = gateway_pb2.ChatRequest(messages=[message()]).SerializeToString()
    kwargs = b"\x22" + bytes([len(deep.SerializeToString()) & 0x7F | 0x80, len(deep.SerializeToString()) >> 7])
    assert len(deep.SerializeToString()) < 2**14
    heard = await refusal(
        stack.gateway_channel.unary_unary("/tokenmill.v1.InferenceService/Chat")(
            raw + kwargs + deep.SerializeToString()
        )
    )
    assert heard.code is CODE.INVALID_ARGUMENT
