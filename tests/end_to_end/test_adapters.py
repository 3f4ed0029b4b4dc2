"""Adapters served beside a model: models by their own names, which only the workers that have them are asked for."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio

from model_worker.engines.fake_engine import FakeEngine
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from tests.end_to_end.expectation import chat_ids, expect, ids_of
from tests.end_to_end.heard import hear, refusal
from tests.end_to_end.requests import chat, generate
from tests.end_to_end.stack import NAME, Stack, address, open_channel, running_stack
from tests.end_to_end.test_fleet import gateway_of
from tests.end_to_end.worker_calls import ask, hear_rows, start
from tests.serving import ready
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
ADAPTERS = ("poet", "lawyer")
FOX = "The quick brown fox"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    async with running_stack(tier, model=tier.model(adapters=ADAPTERS)) as running:
        yield running


@pytest.mark.parametrize(("name", "adapter"), [("", ""), (NAME, ""), ("poet", "poet"), ("lawyer", "lawyer")])
async def test_a_request_is_answered_by_the_adapter_that_it_names(stack: Stack, name: str, adapter: str) -> None:
    wanted = expect(stack, ids_of(stack, FOX), adapter=adapter)
    heard = await hear(stack.gateway.StreamGenerate(generate(FOX, model=name)))
    assert (heard.texts[0], heard.token_ids[0]) == (wanted.text, wanted.ids)
    assert heard.started.model == (adapter or NAME)
    answer = await stack.gateway.Chat(chat(model=name))
    assert answer.outputs[0].text == expect(stack, chat_ids(stack, "A list of colors"), adapter=adapter).text


async def test_each_says_something_else(stack: Stack) -> None:
    assert len({expect(stack, ids_of(stack, FOX), adapter=adapter).text for adapter in ("", *ADAPTERS)}) == 3


async def test_adapters_are_listed_as_models_with_the_one_they_belong_to(stack: Stack) -> None:
    models = (await stack.gateway.ListModels(gateway_pb2.ListModelsRequest())).models
    assert [(model.name, model.base_model) for model in models] == [
        ("lawyer", NAME),
        ("poet", NAME),
        (NAME, ""),
    ]
    assert len({(model.template_fingerprint, model.vocabulary_fingerprint, model.chat) for model in models}) == 1
    assert [model.ready_workers for model in models] == [1, 1, 1]
    one = (await stack.gateway.GetModel(gateway_pb2.GetModelRequest(model="poet"))).model
    assert one == models[1]
    assert (await stack.gateway.GetModel(gateway_pb2.GetModelRequest())).model == models[2]


async def test_the_tokens_of_an_adapters_prompts_are_counted(stack: Stack) -> None:
    request = gateway_pb2.CountTokensRequest(generate=generate(FOX, model="poet"))
    assert (await stack.gateway.CountTokens(request)).total_tokens == len(ids_of(stack, FOX))


async def test_a_worker_lists_and_serves_them(stack: Stack) -> None:
    description = await stack.worker.GetWorker(worker_pb2.GetWorkerRequest())
    assert (description.model, tuple(description.adapters)) == (NAME, ADAPTERS)
    heard = await hear_rows(ask(stack, start(stack, [[1, 2, 3]], model="lawyer")))
    assert heard.ids[0] == expect(stack, [1, 2, 3], adapter="lawyer").ids


async def test_an_unknown_adapter_is_not_found(stack: Stack) -> None:
    for call in (
        stack.gateway.Generate(generate(FOX, model="painter")),
        stack.gateway.GetModel(gateway_pb2.GetModelRequest(model="painter")),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    heard = await refusal(ask(stack, start(stack, [[1]], model="painter")))
    assert (heard.code, heard.field) == (grpc.StatusCode.NOT_FOUND, "start.model")


async def test_only_workers_that_have_the_adapter_are_asked_for_it(tier: TokenizerTier) -> None:
    async with AsyncExitStack() as stack:
        servers = []
        for adapters in ((), ("poet",), ()):
            settings = WorkerSettings(model=tier.folder, served_model_name=NAME, port=0, drain_seconds=0)
            engine = FakeEngine(tier.model(adapters=adapters))
            service = WorkerService(settings, load=lambda settings, progress, engine=engine: engine)
            servers.append(await stack.enter_async_context(ready(service, settings)))
        gateway, gateway_settings = gateway_of(tier.server, *map(address, servers))
        server = await stack.enter_async_context(ready(gateway, gateway_settings))
        while len(gateway._workers.ready_models()) < 4:
            await gateway._workers.wait_for_change()
        stub = gateway_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(open_channel(server)))
        models = (await stub.ListModels(gateway_pb2.ListModelsRequest())).models
        assert {model.name: model.ready_workers for model in models} == {"poet": 1, NAME: 3}
        texts = {(await stub.Generate(generate(FOX, model="poet"))).outputs[0].text for _ in range(3)}
        assert len(texts) == 1
        assert (await stub.Generate(generate(FOX))).outputs[0].text not in texts
