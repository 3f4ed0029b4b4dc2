"""Bodies that nobody would send: none may hang, be answered with a 5xx, or leave the gateway worse than before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.openai.chat import ChatBody
from gateway.http.openai.completions import CompletionBody
from gateway.http.openai.responses_body import ResponsesBody
from gateway.http.openai.tokens import DetokenizeBody, TokenizeBody
from tests.end_to_end.http import CHAT, COMPLETIONS, RESPONSES, chat, http_stack, posted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
FEW, MANY = 300, 5000
BODIES = {
    CHAT: ChatBody,
    COMPLETIONS: CompletionBody,
    RESPONSES: ResponsesBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
NAMES = sorted({name for body in BODIES.values() for name in (*body.model_fields, *body.refused)})
SMALL = st.integers(-2, 40)
LARGE = st.sampled_from([2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**31), -(10**30)])
TEXT = st.text(max_size=12) | st.sampled_from(["", "\x00", "\ud7ff", "🙂", "<|turn_end|>", "\ufffd" * 4])
SCALARS = st.none() | st.booleans() | SMALL | LARGE | st.floats(allow_nan=True, allow_infinity=True) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "wizard", ""])
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "input_text"])}, optional={"text": TEXT})
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLES}, optional={"content": TEXT | st.lists(PARTS, max_size=2) | VALUES}),
    max_size=3,
)
# Bodies that are nearly right get further than those that are not: a field or two of them is anything.
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "messages": MESSAGES,
        "input": TEXT | MESSAGES,
        "prompt": TEXT
        | st.lists(TEXT, max_size=2)
        | st.lists(SMALL, max_size=4)
        | st.lists(st.lists(SMALL, max_size=2)),
        "tokens": st.lists(SMALL | LARGE, max_size=4),
        "max_tokens": SMALL,
        "n": st.integers(-1, 3),
        "stream": st.booleans(),
        "temperature": st.sampled_from([-1, 0, 0.5, 1, 1e9]),
        "logprobs": st.booleans() | SMALL,
        "echo": st.booleans(),
        "stop": TEXT | st.lists(TEXT, max_size=3),
    },
)
OBJECTS = st.tuples(LIKELY, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2)).map(
    lambda two: two[0] | two[1]
)


def bounded(body: Any) -> Any:
    """With a short output: what is asked for in earnest takes its time."""
    return body if not isinstance(body, dict) else {"max_tokens": 4, "max_output_tokens": 4, **body}


RAW = st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode(errors="replace"))
REQUESTS = st.one_of(OBJECTS.map(lambda body: json.dumps(bounded(body)).encode(errors="replace")), RAW)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(tier: TokenizerTier) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a gateway that is to be healthy, and idle, when all is over."""
    async with http_stack(tier, gateway={"default_max_new_tokens": 8}) as (stack, client):
        yield client
        assert (await client.get("/health")).status_code == 200
        await posted(client, CHAT, chat())
        await stack.idle()
        assert stack.inflight == 0


def fuzzed(count: int) -> Any:
    """Run a test on `count` requests."""
    configured = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    return lambda test: configured(given(path=st.sampled_from(sorted(BODIES)), body=REQUESTS)(test))


@fuzzed(FEW)
async def test_some(client: httpx2.AsyncClient, path: str, body: bytes) -> None:
    await check(client, path, body)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@fuzzed(MANY)
async def test_many(client: httpx2.AsyncClient, path: str, body: bytes) -> None:
    await check(client, path, body)


async def check(client: httpx2.AsyncClient, path: str, body: bytes) -> None:
    response = await client.post(path, content=body)
    assert response.status_code < 500, (response.status_code, response.text)
    if response.status_code != 200:
        assert response.json()["error"]["message"]
