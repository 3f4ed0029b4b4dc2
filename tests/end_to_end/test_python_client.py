"""The Python client against a running stack: what it returns, what it raises, and the examples of its documentation."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import threading
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

import tokenmill_client
from model_worker.engines.fake_faults import Gate
from rpc.errors import queue_full, unavailable
from tests.end_to_end.access import RIGHT_KEY, entry, write_keys
from tests.end_to_end.requests import chat, generate
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, address, gated_stack, reached, running_stack
from tests.rpc.scripted_service import ScriptedService, connected
from tokenmill.v1 import gateway_pb2
from tokenmill_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidRequestError,
    Message,
    NotFoundError,
    OverloadedError,
    RefusedError,
    Retries,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    async with running_stack(tier) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address(stack.gateway_server)) as made:
        yield made


async def test_answers_are_those_of_the_service(stack: Stack, client: AsyncClient) -> None:
    wanted = await stack.gateway.Chat(chat(n=2))
    answer = await client.chat("A list of colors", n=2, max_new_tokens=10, token_ids=True)
    assert [output.text for output in answer.outputs] == [output.text for output in wanted.outputs]
    assert [output.token_ids for output in answer.outputs] == [list(output.token_ids) for output in wanted.outputs]
    assert answer.usage.completion_tokens == 20
    assert {output.finish.reason for output in answer.outputs if output.finish} == {"MAX_NEW_TOKENS"}
    by_message = await client.chat([Message("user", "A list of colors")], max_new_tokens=10)
    by_mapping = await client.chat([{"role": "user", "content": "A list of colors"}], max_new_tokens=10)
    assert by_message.text == by_mapping.text == answer.text


async def test_prompts_are_texts_or_tokens(stack: Stack, client: AsyncClient) -> None:
    wanted = (await stack.gateway.Generate(generate())).outputs[0].text
    ids = stack.tier.tokenizer.encode("The quick brown fox").ids
    prompt = "The quick brown fox"
    for prompts in (prompt, [prompt], ids, [ids]):
        assert (await client.generate(prompts, max_new_tokens=10, add_special_tokens=False)).text == wanted
    assert (
        await client.count_tokens(prompt=prompt)
        == (await client.generate(prompt, max_new_tokens=1)).usage.prompt_tokens
    )


async def test_a_stream_says_the_same_in_parts(client: AsyncClient) -> None:
    whole = await client.chat("A list of colors", max_new_tokens=10, logprobs=True, top_logprobs=2)
    async with client.stream_chat("A list of colors", max_new_tokens=10, logprobs=True, top_logprobs=2) as stream:
        deltas = [delta async for delta in stream]
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [one for delta in deltas for one in delta.logprobs] == whole.outputs[0].logprobs
    finish, wanted = deltas[-1].finish, whole.outputs[0].finish
    assert finish is not None
    assert wanted is not None
    assert finish.reason == wanted.reason


async def test_every_parameter_has_its_place(client: AsyncClient) -> None:
    await client.generate(
        "The quick brown fox",
        model=NAME,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        seed=7,
        logit_bias={3: 1.0},
        max_new_tokens=5,
        min_new_tokens=1,
        stop_strings=["\n"],
        stop_token_ids=[4],
        include_stop=True,
        ignore_eos=True,
        time_limit_seconds=30,
        prompt_logprobs=True,
        keep_special_tokens=True,
        priority=1,
        cache_salt="salt",
        parse_special_tokens=True,
        truncate_prompt_tokens=8,
    )


async def test_errors_say_what_is_wrong(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await client.chat("x", temperature=-1)
    assert (refused.value.field, refused.value.reason) == ("sampling.temperature", "INVALID_FIELD")
    assert refused.value.request_id
    with pytest.raises(NotFoundError):
        await client.chat("x", model="other")
    with pytest.raises(InvalidRequestError):
        async for _ in client.stream_chat([]):
            pass


async def test_models_are_described(client: AsyncClient) -> None:
    [model] = await client.models()
    assert (model.name, model.chat, model.ready_workers, model.base_model) == (NAME, True, 1, None)


async def test_leaving_a_stream_ends_the_generation(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack, AsyncClient(address(stack.gateway_server)) as client:
        gate.allow(3)
        async with client.stream_generate("The quick brown fox", max_new_tokens=10_000) as stream:
            assert (await anext(stream)).index == 0
        gate.open()
        await stack.idle()
        assert stack.inflight == 0


async def test_a_cancelled_task_ends_the_generation(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate) as stack, AsyncClient(address(stack.gateway_server)) as client:
        asking = asyncio.create_task(client.generate("The quick brown fox", max_new_tokens=10_000))
        await reached(gate)
        asking.cancel()
        await asyncio.wait({asking})
        gate.open()
        await stack.idle()


async def test_a_deadline_holds_for_the_whole_call(tier: TokenizerTier) -> None:
    gate = Gate()
    async with (
        gated_stack(tier, gate) as stack,
        AsyncClient(address(stack.gateway_server), timeout_seconds=0.2) as client,
    ):
        with pytest.raises(DeadlineExceededError):
            await client.generate("The quick brown fox")


async def test_the_synchronous_client_does_the_same(stack: Stack) -> None:
    def use() -> list[Any]:
        with Client(address(stack.gateway_server)) as client:
            whole = client.chat("A list of colors", max_new_tokens=10).text
            with client.stream_chat("A list of colors", max_new_tokens=10) as stream:
                streamed = "".join(stream.text())
            with client.stream_generate("The quick brown fox", max_new_tokens=10_000, ignore_eos=True) as cut:
                next(cut)
            with pytest.raises(InvalidRequestError):
                client.generate("x", top_p=0)
            return [whole, streamed, client.models()[0].name, client.count_tokens("A list of colors"), list(cut)]

    whole, streamed, name, tokens, rest = await asyncio.to_thread(use)
    assert whole == streamed
    assert name == NAME
    assert tokens == (await stack.gateway.Chat(chat())).usage.prompt_tokens
    assert rest == []


class Failing:
    """A service that fails so often with `error` before it answers."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error
        self.calls = 0

    async def generate(self, request: Any, context: Any) -> Any:
        self._fail()
        return gateway_pb2.GenerateResponse(outputs=[gateway_pb2.Output(text="done")])

    async def stream(self, request: Any, context: Any) -> Any:
        self._fail()
        yield gateway_pb2.StreamGenerateResponse(delta=gateway_pb2.Delta(text="do"))
        self._fail()
        yield gateway_pb2.StreamGenerateResponse(delta=gateway_pb2.Delta(text="ne"))

    def _fail(self) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error


QUICK = Retries(attempts=3, backoff_seconds=0.001)


@pytest.mark.parametrize("error", [queue_full("it", 0.01), unavailable("LOST", "it is gone", 0.01)])
async def test_what_was_not_begun_is_asked_again(error: Exception) -> None:
    failing = Failing(2, error)
    async with (
        connected(ScriptedService(generate=failing.generate, stream_generate=failing.stream)) as (server, _),
        AsyncClient(f"127.0.0.1:{server.port}", retries=QUICK) as client,
    ):
        assert (await client.generate("x")).text == "done"
        assert failing.calls == 3
        failing.left = 2
        assert [text async for text in client.stream_generate("x").text()] == ["do", "ne"]


async def test_what_is_asked_in_vain_is_given_up() -> None:
    failing = Failing(9, queue_full("it", 0.01))
    async with (
        connected(ScriptedService(generate=failing.generate)) as (server, _),
        AsyncClient(f"127.0.0.1:{server.port}", retries=QUICK) as client,
    ):
        with pytest.raises(OverloadedError) as full:
            await client.generate("x")
    assert failing.calls == 3
    assert full.value.retry_after_seconds == pytest.approx(0.01)


async def test_a_stream_that_has_begun_is_never_asked_again() -> None:
    failing = Failing(0, unavailable("LOST", "it is gone"))

    async def stream(request: Any, context: Any) -> Any:
        yield gateway_pb2.StreamGenerateResponse(delta=gateway_pb2.Delta(text="do"))
        failing.calls += 1
        raise failing.error

    async with (
        connected(ScriptedService(stream_generate=stream)) as (server, _),
        AsyncClient(f"127.0.0.1:{server.port}", retries=QUICK) as client,
    ):
        texts = client.stream_generate("x").text()
        assert await anext(texts) == "do"
        with pytest.raises(UnavailableError):
            await anext(texts)
    assert failing.calls == 1


async def test_a_proxy_of_the_environment_is_not_asked(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncClient(address(stack.gateway_server), retries=Retries(attempts=1)) as own:
        assert [model.name for model in await own.models()] == [NAME]


async def test_nobody_there_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1", retries=Retries(attempts=1)) as client:
        with pytest.raises(UnavailableError):
            await client.models()


def examples() -> list[tuple[str, str]]:
    """The code of every example, by where it stands."""
    found = []
    for kind in (tokenmill_client.Client, tokenmill_client.AsyncClient):
        for name, member in [(kind.__name__, kind), *inspect.getmembers(kind, inspect.isfunction)]:
            lines = [line.strip() for line in (inspect.getdoc(member) or "").splitlines()]
            code = [line[4:] for line in lines if line.startswith((">>>", "..."))]
            found += [(f"{kind.__name__}.{name}", "\n".join(code) + "\n")] if code else []
    return found


@pytest.mark.parametrize(("name", "source"), examples())
async def test_the_examples_of_the_documentation_run(stack: Stack, name: str, source: str) -> None:
    source = source.replace("localhost:50051", address(stack.gateway_server))
    told = io.StringIO()
    names = vars(tokenmill_client).copy()
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(told):
        if "await" in source or "async" in source:
            await eval(code, names)
        else:
            thread = threading.Thread(target=exec, args=(code, names))
            thread.start()
            await asyncio.to_thread(thread.join)
    assert told.getvalue().strip()


async def test_a_key_goes_with_every_call_and_is_not_shown(
    tier: TokenizerTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY))
    async with running_stack(tier, gateway={"api_key_file": keys}) as stack:
        where = address(stack.gateway_server)
        async with AsyncClient(where) as client:
            with pytest.raises(RefusedError) as caught:
                await client.models()
            assert caught.value.reason == "MISSING_CREDENTIALS"
        async with AsyncClient(where, api_key=RIGHT_KEY) as client:
            assert [model.name for model in await client.models()] == [NAME]
            assert RIGHT_KEY not in repr(client._identity)
        monkeypatch.setenv("TOKENMILL_API_KEY", RIGHT_KEY)
        async with AsyncClient(where) as client:
            await client.models()
        async with AsyncClient(where, api_key="") as client:
            with pytest.raises(RefusedError):
                await client.models()
