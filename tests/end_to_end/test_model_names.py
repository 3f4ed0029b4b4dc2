"""Several models and adapters behind one gateway, and the names that lead to them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_engine import FakeEngine
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.start_error import StartError
from tests.end_to_end.heard import hear, refusal
from tests.end_to_end.requests import Stopping, chat, generate, generate_tokens, message
from tests.end_to_end.stack import NAME, address, open_channel
from tests.end_to_end.test_fleet import other_vocabulary
from tests.serving import RunningServer, ready
from tests.tokenizers_for_tests import unigram_tokenizer
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
SHORT = Stopping(max_new_tokens=4)
FOX = "The quick brown fox"
ALIASES = ("chat=fast", f"fast={NAME}", "verse=poet", "lost=nowhere")


@dataclass
class Models:
    """A gateway in front of two models, of two vocabularies; the first has an adapter."""

    gateway: Any
    workers: dict[str, RunningServer]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def models(tier: TokenizerTier, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Models]:
    folders = {NAME: tier.folder, "other": other_vocabulary(tmp_path_factory.mktemp("other"))}
    async with AsyncExitStack() as stack:
        names = tuple(f"{name}={folder}" for name, folder in folders.items())
        settings = TokenizerSettings(model=names, port=0, drain_seconds=0, threads=1, template_seconds=20.0)
        tokenizer = await stack.enter_async_context(ready(TokenizerService(settings), settings))
        workers = {name: await begun(stack, tier, folder, name) for name, folder in folders.items()}
        targets = tuple(map(address, workers.values()))
        gateway = gateway_settings(tokenizer, targets, model_alias=ALIASES)
        stub = await stub_of(stack, GatewayService(gateway), gateway, models=3)
        yield Models(stub, workers)


async def begun(stack: AsyncExitStack, tier: TokenizerTier, folder: Path, name: str) -> RunningServer:
    """A worker of the model `name`; the first one has an adapter."""
    size = {NAME: {}}.get(name, {"vocabulary_size": max(unigram_tokenizer().get_vocab().values()) + 1})
    engine = FakeEngine(tier.model(**size, adapters=("poet",) if name == NAME else ()))
    settings = WorkerSettings(model=folder, served_model_name=name, port=0, drain_seconds=0)
    service = WorkerService(settings, load=lambda settings, progress: engine)
    return await stack.enter_async_context(ready(service, settings))


def gateway_settings(tokenizer: RunningServer, workers: tuple[str, ...], **given: Any) -> GatewaySettings:
    return GatewaySettings(tokenizer=(address(tokenizer),), worker=workers, port=0, drain_seconds=0, **given)


async def stub_of(stack: AsyncExitStack, service: GatewayService, settings: GatewaySettings, *, models: int) -> Any:
    """A caller's stub of a gateway that has seen so many models ready, those of each worker counted."""
    server = await stack.enter_async_context(ready(service, settings))
    while len(service._workers.ready_models()) < models:
        await service._workers.wait_for_change()
    return gateway_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(open_channel(server)))


@pytest.mark.parametrize(
    ("name", "own_name", "worker"),
    [
        (NAME, NAME, NAME),
        ("chat", NAME, NAME),
        ("fast", NAME, NAME),
        ("poet", "poet", NAME),
        ("verse", "poet", NAME),
        ("other", "other", "other"),
    ],
)
async def test_a_name_leads_to_its_model_and_the_answer_says_which_one(
    models: Models, name: str, own_name: str, worker: str
) -> None:
    before = models.workers[worker].calls.begun
    heard = await hear(models.gateway.StreamGenerate(generate(FOX, model=name, stopping=SHORT)))
    assert heard.started is not None
    assert heard.started.model == own_name
    own = await hear(models.gateway.StreamGenerate(generate(FOX, model=own_name, stopping=SHORT)))
    assert (heard.texts, heard.token_ids) == (own.texts, own.token_ids)
    assert models.workers[worker].calls.begun == before + 2
    assert (await models.gateway.GetModel(gateway_pb2.GetModelRequest(model=name))).model.name == own_name
    count = gateway_pb2.CountTokensRequest(generate=generate(FOX, model=name))
    assert (await models.gateway.CountTokens(count)).total_tokens == heard.started.prompt_tokens[0]


async def test_models_are_listed_once_with_their_aliases(models: Models) -> None:
    listed = (await models.gateway.ListModels(gateway_pb2.ListModelsRequest())).models
    assert [(model.name, model.base_model, list(model.aliases), model.ready_workers) for model in listed] == [
        ("other", "", [], 1),
        ("poet", NAME, ["verse"], 1),
        (NAME, "", ["chat", "fast"], 1),
    ]


async def test_a_name_that_leads_nowhere_is_refused_as_the_caller_wrote_it(models: Models) -> None:
    for name in ("lost", "nobody"):
        heard = await refusal(models.gateway.Chat(chat(message(FOX), model=name)))
        assert (heard.code, heard.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
        assert heard.message == f"model '{name}' is not served here"
    heard = await refusal(models.gateway.Generate(generate(FOX)))
    assert (heard.code, heard.field) == (grpc.StatusCode.INVALID_ARGUMENT, "model")
    assert all(name in heard.message for name in ("chat", "fast", "other", "poet", NAME, "verse"))


async def test_aliases_that_do_not_fit_together_end_the_start() -> None:
    for given, message_ in ((("a=b", "b=a"), "in a circle"), (("a",), "not NAME=MODEL"), (("a=b", "a=c"), "twice")):
        settings = GatewaySettings(tokenizer=("localhost:1",), worker=("localhost:2",), model_alias=given)
        with pytest.raises(StartError, match=rf"--model-alias: .*{message_}"):
            GatewayService(settings)


async def test_a_worker_with_another_vocabulary_gets_nothing_and_is_counted(
    tier: TokenizerTier, tmp_path: Path
) -> None:
    """Also token prompts, of which only the tokenizer service knows whose they are, go to the one that fits."""
    async with AsyncExitStack() as stack:
        wrong = await begun(stack, tier, other_vocabulary(tmp_path), NAME)
        right = await begun(stack, tier, tier.folder, NAME)
        settings = gateway_settings(tier.server, (address(wrong), address(right)))
        service = GatewayService(settings)
        stub = await stub_of(stack, service, settings, models=4)
        before = wrong.calls.begun, right.calls.begun
        for _ in range(4):
            await stub.Generate(generate(FOX, stopping=SHORT))
            await stub.Generate(generate_tokens([5, 6], stopping=SHORT))
        assert (wrong.calls.begun, right.calls.begun) == (before[0], before[1] + 8)
        assert service._workers.vocabularies.refused_workers == 1
        model = (await stub.GetModel(gateway_pb2.GetModelRequest())).model
        assert (model.ready_workers, model.vocabulary_size) == (1, tier.model().vocabulary_size)
        right.stop()
        await right.life
        heard = await refusal(stub.Generate(generate(FOX, stopping=SHORT)))
        assert (heard.code, heard.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VOCABULARY_MISMATCH")
