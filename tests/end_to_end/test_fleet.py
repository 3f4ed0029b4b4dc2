"""Several workers behind one gateway: which of them is asked, and what is said of their models."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_engine import FakeEngine
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from tests.end_to_end.requests import chat, generate, generate_tokens, message
from tests.end_to_end.stack import NAME, TokenizerTier, address, open_channel
from tests.gateway.fleet.name_server import name_server
from tests.serving import RunningServer, listening, ready
from tests.tokenizers_for_tests import unigram_tokenizer
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHORT = generation_pb2.StoppingCriteria(max_new_tokens=3)


@asynccontextmanager
async def worker(
    tier: TokenizerTier, folder: Path, name: str = NAME, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[RunningServer]:
    """A worker of the fake engine with the vocabulary in `folder`."""
    settings = WorkerSettings(model=folder, served_model_name=name, host=host, port=port, drain_seconds=0)
    service = WorkerService(settings, load=lambda settings, progress: FakeEngine(tier.model()))
    async with ready(service, settings) as server:
        yield server


def gateway_of(tokenizer: RunningServer, *workers: str) -> tuple[GatewayService, GatewaySettings]:
    settings = GatewaySettings(tokenizer=(address(tokenizer),), worker=workers, port=0, drain_seconds=0)
    return GatewayService(settings), settings


def other_vocabulary(folder: Path) -> Path:
    unigram_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


async def test_only_workers_with_the_vocabulary_of_the_ids_are_asked(tier: TokenizerTier, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(worker(tier, folder))
            for folder in (tier.folder, other_vocabulary(tmp_path), tier.folder)
        ]
        gateway, settings = gateway_of(tier.server, *map(address, workers))
        server = await stack.enter_async_context(ready(gateway, settings))
        while len(gateway._workers.ready_models()) < 3:
            await gateway._workers.wait_for_change()
        stub = gateway_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(open_channel(server)))
        for _ in range(6):
            await stub.Generate(generate("a text", stopping=SHORT))
        assert sorted(state.refused for state in gateway._workers.states()) == [False, False, True]


async def test_a_gateway_becomes_ready_when_the_wrong_worker_is_replaced(tier: TokenizerTier, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with worker(tier, other_vocabulary(tmp_path)) as wrong:
            gateway, settings = gateway_of(tier.server, address(wrong))
            server = await stack.enter_async_context(listening(gateway, settings))
            while not gateway._workers.ready_models():
                await gateway._workers.wait_for_change()
            assert not server.ready.is_set()
            port = wrong.port
        await stack.enter_async_context(worker(tier, tier.folder, port=port))
        await server.ready.wait()


async def test_models_that_share_a_vocabulary_each_have_their_own_template(tier: TokenizerTier, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((tier.folder / name).read_bytes())
    settings = TokenizerSettings(
        model=(f"chats={tier.folder}", f"completes={bare}"), port=0, drain_seconds=0, threads=1
    )
    async with AsyncExitStack() as stack:
        tokenizer = await stack.enter_async_context(ready(TokenizerService(settings), settings))
        workers = [await stack.enter_async_context(worker(tier, tier.folder, name)) for name in ("chats", "completes")]
        gateway, gateway_settings = gateway_of(tokenizer, *map(address, workers))
        server = await stack.enter_async_context(ready(gateway, gateway_settings))
        while len(gateway._workers.ready_models()) < 2:
            await gateway._workers.wait_for_change()
        stub = gateway_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(open_channel(server)))
        models = (await stub.ListModels(gateway_pb2.ListModelsRequest())).models
        assert {model.name: model.chat for model in models} == {"chats": True, "completes": False}


async def test_workers_behind_a_name_are_noticed_as_they_come_and_go(tier: TokenizerTier) -> None:
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(name_server())
        first = await stack.enter_async_context(worker(tier, tier.folder, host="127.0.0.2"))
        second = await stack.enter_async_context(worker(tier, tier.folder, host="127.0.0.3", port=first.port))
        names.addresses["workers"] = ["127.0.0.2"]
        settings = GatewaySettings(
            tokenizer=(address(tier.server),),
            worker=(f"dns:workers:{first.port}",),
            dns_server=names.target,
            port=0,
            drain_seconds=0,
        )
        server = await stack.enter_async_context(ready(GatewayService(settings), settings))
        stub = gateway_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(open_channel(server)))

        async def answered_by(wanted: RunningServer) -> None:
            """Ask until `wanted` is the one that answers, ten times in a row; nothing may fail meanwhile."""
            in_a_row = 0
            while in_a_row < 10:
                before = wanted.calls.begun
                await stub.Generate(generate("a text", stopping=SHORT))
                in_a_row = in_a_row + 1 if wanted.calls.begun > before else 0

        await answered_by(first)
        async with asyncio.timeout(5):
            names.addresses["workers"] = ["127.0.0.3"]
            await answered_by(second)
        names.is_broken = True
        await answered_by(second)


async def test_a_greedy_output_is_had_again_with_its_seed_and_its_sampling(stack: Any) -> None:
    streamed = stack.gateway.StreamGenerate(generate("a text", stopping=SHORT, output={"token_ids": True}))
    events = [event async for event in streamed]
    seed, sampling = events[-1].finished.finish.seed, events[0].started.sampling
    ids = [token_id for event in events for token_id in event.delta.token_ids]
    sampling.seed = seed
    again = await stack.gateway.Generate(
        generate("a text", stopping=SHORT, sampling=sampling, output={"token_ids": True})
    )
    assert list(again.outputs[0].token_ids) == ids


async def test_only_what_shapes_the_prompt_matters_when_tokens_are_counted(stack: Any) -> None:
    plain = chat(message("A list"))
    adorned = chat(
        message("A list"),
        n=99,
        sampling={"temperature": -1, "min_p": 0.1},
        stopping={"max_new_tokens": 0},
        output={"logprobs": True},
        response_format={"regex": "a+"},
        priority=3,
    )
    counts = [await stack.gateway.CountTokens(gateway_pb2.CountTokensRequest(chat=one)) for one in (plain, adorned)]
    assert counts[0] == counts[1]


async def test_a_response_format_without_a_format_is_free_text(stack: Any) -> None:
    await stack.gateway.Generate(generate("a text", stopping=SHORT, response_format={}))


async def test_token_prompts_are_used_as_they_are_or_refused(stack: Any) -> None:
    for field in ("add_special_tokens", "parse_special_tokens"):
        with pytest.raises(Exception, match=f"{field}: goes with text"):
            await stack.gateway.Generate(generate_tokens([5, 6], **{field: True}))
