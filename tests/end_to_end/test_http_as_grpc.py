"""The same request over HTTP and over gRPC: identical text, ids, endings and usage, whatever its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.end_to_end.http import CHAT, COMPLETIONS, http_stack, posted, streamed
from tests.end_to_end.requests import OutputOptions, Sampling, Stopping, message
from tests.end_to_end.stack import Stack, TokenizerTier
from tokenmill.v1 import gateway_pb2
from tokenmill.v1.generation_pb2 import FinishReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORDS = st.lists(st.sampled_from(["red", "green", "fox", "the", "é", "漢字", "🙂", "\n"]), min_size=1, max_size=12)
TEXTS = WORDS.map(" ".join)
# Over HTTP by this name; in the contract by that one, in this part of a request.
NAMES = {
    "temperature": ("sampling", "temperature"),
    "top_p": ("sampling", "top_p"),
    "top_k": ("sampling", "top_k"),
    "min_p": ("sampling", "min_p"),
    "repetition_penalty": ("sampling", "repetition_penalty"),
    "presence_penalty": ("sampling", "presence_penalty"),
    "frequency_penalty": ("sampling", "frequency_penalty"),
    "max_tokens": ("stopping", "max_new_tokens"),
    "min_tokens": ("stopping", "min_new_tokens"),
    "stop": ("stopping", "stop_strings"),
    "include_stop_str_in_output": ("stopping", "include_stop"),
    "ignore_eos": ("stopping", "ignore_eos"),
}
PARAMETERS = st.fixed_dictionaries(
    {"max_tokens": st.integers(3, 24), "seed": st.integers(0, 2**64 - 1)},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 1.0]),
        "top_p": st.sampled_from([0.5, 0.9, 1.0]),
        "top_k": st.integers(0, 50),
        "min_p": st.sampled_from([0.0, 0.25]),
        "repetition_penalty": st.sampled_from([1.0, 1.5]),
        "presence_penalty": st.sampled_from([-1.0, 0.5]),
        "frequency_penalty": st.sampled_from([-0.5, 1.0]),
        "min_tokens": st.integers(0, 3),
        "stop": st.lists(st.sampled_from(["a", "e", " t", "\ufffd"]), min_size=1, max_size=3),
        "include_stop_str_in_output": st.booleans(),
        "ignore_eos": st.booleans(),
    },
)
ENDINGS = {
    FinishReason.FINISH_REASON_END_OF_SEQUENCE: "stop",
    FinishReason.FINISH_REASON_STOP_STRING: "stop",
    FinishReason.FINISH_REASON_STOP_TOKEN: "stop",
    FinishReason.FINISH_REASON_MAX_NEW_TOKENS: "length",
    FinishReason.FINISH_REASON_CONTEXT_LENGTH: "length",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tier: TokenizerTier) -> AsyncIterator[tuple[Stack, httpx2.AsyncClient]]:
    async with http_stack(tier) as both:
        yield both


def in_the_contract(parameters: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {"sampling": {"seed": parameters["seed"]}, "stopping": {}}
    for name, (part, own) in NAMES.items():
        if name in parameters:
            parts[part][own] = parameters[name]
    return {
        "sampling": Sampling(**parts["sampling"]),
        "stopping": Stopping(**parts["stopping"]),
        "output": OutputOptions(token_ids=True),
    }


def from_grpc(response: Any) -> tuple[list[Any], tuple[int, int]]:
    outputs = [(output.text, list(output.token_ids), ENDINGS[output.finish.reason]) for output in response.outputs]
    return outputs, (response.usage.prompt_tokens, response.usage.completion_tokens)


def from_http(answer: Any) -> tuple[list[Any], tuple[int, int]]:
    outputs = []
    for choice in answer["choices"]:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        outputs.append((text, choice["token_ids"], choice["finish_reason"]))
    return outputs, (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])


def from_chunks(events: list[Any], count: int) -> tuple[list[Any], tuple[int, int]]:
    texts, ids, endings = [""] * count, [list[int]() for _ in range(count)], [None] * count
    usage = {}
    for chunk in events[:-1]:
        usage = chunk["usage"] or usage
        for choice in chunk["choices"]:
            index = choice["index"]
            texts[index] += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            ids[index] += choice.get("token_ids", [])
            endings[index] = choice["finish_reason"] or endings[index]
    return list(zip(texts, ids, endings, strict=True)), (usage["prompt_tokens"], usage["completion_tokens"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=2), n=st.integers(1, 2), parameters=PARAMETERS)
async def test_completions(
    running: tuple[Stack, httpx2.AsyncClient], texts: list[str], n: int, parameters: dict[str, Any]
) -> None:
    stack, client = running
    request = gateway_pb2.GenerateRequest(
        prompts=gateway_pb2.TextPrompts(texts=texts), n=n, **in_the_contract(parameters)
    )
    wanted = from_grpc(await stack.gateway.Generate(request))
    body = {"prompt": texts, "n": n, "return_token_ids": True, **parameters}
    assert from_http(await posted(client, COMPLETIONS, body)) == wanted
    with_usage = body | {"stream_options": {"include_usage": True}}
    assert from_chunks(await streamed(client, COMPLETIONS, with_usage), len(texts) * n) == wanted


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), n=st.integers(1, 2), parameters=PARAMETERS)
async def test_chats(
    running: tuple[Stack, httpx2.AsyncClient], texts: list[str], n: int, parameters: dict[str, Any]
) -> None:
    stack, client = running
    roles = ["user", "assistant", "user"]
    messages = [message(text, role) for text, role in zip(texts, roles, strict=False)]
    request = gateway_pb2.ChatRequest(messages=messages, n=n, **in_the_contract(parameters))
    wanted = from_grpc(await stack.gateway.Chat(request))
    told = [{"role": one.role, "content": one.content} for one in messages]
    body = {"messages": told, "n": n, "return_token_ids": True, **parameters}
    assert from_http(await posted(client, CHAT, body)) == wanted
    with_usage = body | {"stream_options": {"include_usage": True}}
    assert from_chunks(await streamed(client, CHAT, with_usage), n) == wanted
