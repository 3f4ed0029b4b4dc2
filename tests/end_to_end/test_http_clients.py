"""Other people's clients for Python against the gateway: streams, usage, stops, log-probabilities, leaving, errors."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
import pytest_asyncio
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI

from model_worker.engines.fake_faults import Gate
from tests.end_to_end.http import HTTP, http_stack, url_of
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, gated_stack, running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="session")
CURL_SCRIPT = Path(__file__).resolve().parents[2] / "clients" / "curl" / "chat.sh"
MESSAGES = [{"role": "user", "content": "A list of colors"}]


@asynccontextmanager
async def sdk(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url_of(stack)}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(tier: TokenizerTier) -> AsyncIterator[openai.AsyncOpenAI]:
    async with http_stack(tier) as (stack, _), sdk(stack) as made:
        yield made


async def test_a_chat_is_streamed_with_usage_and_logprobs(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=NAME,
        messages=MESSAGES,
        max_completion_tokens=10,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=2,
    )
    text, tokens, usage = "", 0, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            tokens += len(choice.logprobs.content) if choice.logprobs else 0
    assert usage is not None
    assert usage.completion_tokens == tokens == 10
    whole = await client.chat.completions.create(model=NAME, messages=MESSAGES, max_completion_tokens=10)
    assert whole.choices[0].message.content == text


async def test_a_stop_string_ends_a_stream(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model=NAME, prompt="The quick brown fox", max_tokens=10)
    stop = whole.choices[0].text[2:4]
    stream = await client.completions.create(
        model=NAME, prompt="The quick brown fox", max_tokens=10, stop=[stop], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text.split(stop)[0]
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_response_is_made_and_streamed(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model=NAME, input="A list of colors", max_output_tokens=10)
    stream = await client.responses.create(model=NAME, input="A list of colors", max_output_tokens=10, stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert whole.usage is not None
    assert whole.usage.output_tokens == 10


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [NAME]


async def test_errors_are_the_clients_own_kinds(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=-1)
    assert refused.value.param == "temperature"


async def test_closing_a_stream_stops_its_generation(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway=HTTP) as stack, sdk(stack) as client:
        gate.allow(3)
        stream = await client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=10_000, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        gate.open()
        await stack.idle()
        assert stack.inflight == 0


async def test_curl_streams_stops_weighs_and_leaves(tier: TokenizerTier) -> None:
    async with running_stack(tier, gateway=HTTP) as stack:
        process = await asyncio.create_subprocess_exec(
            str(CURL_SCRIPT), url_of(stack), "A list of colors", stdout=PIPE, stderr=PIPE
        )
        out, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        await stack.idle()
        assert stack.inflight == 0
    usage, stop, logprobs, left = [events(part) for part in re.split(r"# \w+\n", out.decode())[1:]]
    assert usage[-1]["usage"]["completion_tokens"] == 24
    assert text_of(stop) == text_of(usage).split("is")[0]
    told = [choice["logprobs"]["content"] for event in logprobs for choice in event["choices"] if choice["logprobs"]]
    assert len(list(itertools.chain.from_iterable(told))) == 4
    assert len(left) == 5


def events(printed: str) -> list[Any]:
    return [json.loads(line) for line in printed.splitlines() if line != "[DONE]"]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


class TestLangchain:
    async def test_a_chat_is_streamed_with_usage_and_logprobs(self, client: openai.AsyncOpenAI) -> None:
        asked = langchain(str(client.base_url), max_tokens=10, logprobs=True, top_logprobs=2)
        chunks = [chunk async for chunk in asked.astream("A list of colors")]
        answer = sum(chunks[1:], chunks[0])
        assert isinstance(answer, AIMessageChunk)
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 10
        assert len(answer.response_metadata["logprobs"]["content"]) == 10
        whole = await client.chat.completions.create(model=NAME, messages=MESSAGES, max_completion_tokens=10)
        assert answer.text == whole.choices[0].message.content

    async def test_a_stop_string_ends_a_stream(self, client: openai.AsyncOpenAI) -> None:
        whole = (await langchain(str(client.base_url), max_tokens=10).ainvoke("A list of colors")).text
        stop = whole[2:4]
        chunks = langchain(str(client.base_url), max_tokens=10).astream("A list of colors", stop=[stop])
        assert "".join([chunk.text async for chunk in chunks]) == whole.split(stop)[0]

    async def test_leaving_a_stream_stops_its_generation(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate, gateway=HTTP) as stack:
            gate.allow(3)
            stream = langchain(f"{url_of(stack)}/v1", max_tokens=10_000).astream("A list of colors")
            async for chunk in stream:
                if chunk.text:
                    break
            await stream.aclose()  # type: ignore[attr-defined]
            gate.open()
            await stack.idle()
            assert stack.inflight == 0


def langchain(url: str, **parameters: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=url, api_key="none", model=NAME, temperature=0, max_retries=0, stream_usage=True, **parameters
    )
