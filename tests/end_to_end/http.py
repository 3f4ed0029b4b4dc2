"""The gateway's HTTP port, as its callers have it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from tests.end_to_end.stack import NAME, Stack, TokenizerTier, running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HTTP = {"http_port": 0}
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def url_of(stack: Stack) -> str:
    http = stack.gateway_service.http
    assert http is not None
    return f"http://127.0.0.1:{http.port}"


@asynccontextmanager
async def http_client(stack: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url_of(stack), trust_env=False, timeout=30) as client:
        yield client


@asynccontextmanager
async def http_stack(
    tier: TokenizerTier, *faults: Any, **given: Any
) -> AsyncIterator[tuple[Stack, httpx2.AsyncClient]]:
    """A stack of its own with an HTTP port, and a client of it."""
    gateway = HTTP | given.pop("gateway", {})
    async with running_stack(tier, *faults, gateway=gateway, **given) as stack, http_client(stack) as client:
        yield stack, client


def chat(content: str = "A list of colors", **given: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 10, **given}


def completion(prompt: Any = "The quick brown fox", **given: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": prompt, "max_tokens": 10, **given}


async def posted(client: httpx2.AsyncClient, path: str, body: Any, **given: Any) -> Any:
    """The answer's JSON, which is a success."""
    response = await client.post(path, json=body, **given)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of all events of a stream; "[DONE]" as it stands."""
    async with client.stream("POST", path, json=body | {"stream": True}) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/event-stream"
        lines = [line async for line in response.aiter_lines()]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


async def same(client: httpx2.AsyncClient, path: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two requests have the same answer; how much of it was cached does not count."""
    answers = [await posted(client, path, body) for body in (one, other)]
    for answer in answers:
        del answer["usage"]["prompt_tokens_details"]
    return all(answers[0][key] == answers[1][key] for key in ("choices", "usage"))
