"""All three services in this process, through real sockets; the engine is arithmetic, and a test may hold its gate."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.health import READINESS
from tests.serving import ready
from tests.tokenizers_for_tests import EOS, byte_level_tokenizer
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2_grpc, tokenizer_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tokenizers import Tokenizer

    from gateway.fleet.worker_state import WorkerState
    from model_worker.engines.fake_faults import Fault, Gate
    from tests.serving import RunningServer

NAME = "tiny"
# For callers that stop reading: with its usual window a client's library takes megabytes from a stream nobody reads.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535)]
# With the two things a template may do to a request: refuse it in its own words, and run into an error.
TEMPLATE = """{%- for message in messages %}
{%- if message.role == 'tool' %}{{ raise_exception('this model knows no tools') }}{% endif %}
{{- '<|turn_start|>' + message.role + '\\n' + message.content + '<|turn_end|>\\n' }}
{%- endfor %}
{%- if nothing is defined %}{{ nothing.of_this_kind.exists }}{% endif %}
{%- if add_generation_prompt %}{{- '<|turn_start|>assistant\\n' }}{%- endif %}"""


def write_model_folder(folder: Path) -> Path:
    """What the services need of a model: its tokenizer and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@dataclass
class TokenizerTier:
    """The tokenizer service, with one encoding thread and one render process; loading it takes seconds."""

    service: TokenizerService
    server: RunningServer
    folder: Path
    tokenizer: Tokenizer  # of the same folder, for working out what is expected
    stub: Any

    @property
    def eos_id(self) -> int:
        """The id of EOS."""
        token_id = self.tokenizer.token_to_id(EOS)
        assert token_id is not None
        return token_id

    def model(self, **given: Any) -> FakeModel:
        """What the fake engine pretends to be: a model of this vocabulary; unless given, no token ends its outputs."""
        vocabulary_size = max(self.tokenizer.get_vocab().values()) + 1
        return FakeModel(**({"vocabulary_size": vocabulary_size} | given))


@asynccontextmanager
async def held(service: TokenizerService) -> AsyncIterator[None]:
    """Nothing is encoded until the body is over: the one thread of `service` is busy."""
    holding, let_go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(holding.set)
        let_go.wait()

    work = asyncio.create_task(service._pool.run(hold))
    await holding.wait()
    try:
        yield
    finally:
        let_go.set()
        await work


@asynccontextmanager
async def tokenizer_tier(folder: Path, **given: Any) -> AsyncIterator[TokenizerTier]:
    """A tokenizer service on a model folder that is written for it."""
    common = {"port": 0, "drain_seconds": 0, "threads": 1, "template_seconds": 20.0}
    settings = TokenizerSettings(model=(f"{NAME}={write_model_folder(folder)}",), **(common | given))
    service = TokenizerService(settings)
    async with ready(service, settings) as server, open_channel(server) as channel:
        stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
        yield TokenizerTier(service, server, folder, byte_level_tokenizer(), stub)


@dataclass
class Stack:
    """The three services, ready; stubs as callers have them."""

    tier: TokenizerTier
    model: FakeModel
    worker_service: WorkerService
    worker_server: RunningServer
    worker: Any
    gateway_service: GatewayService
    gateway_server: RunningServer
    gateway: Any
    gateway_channel: grpc.aio.Channel
    worker_channel: grpc.aio.Channel

    async def load(self, holds: Callable[[worker_pb2.LoadReport], bool] = lambda _: True) -> worker_pb2.LoadReport:
        """The worker's load, as soon as `holds` is true of it."""
        watch = self.worker.WatchLoad(worker_pb2.WatchLoadRequest())
        try:
            async for response in watch:
                if holds(response.load):
                    return response.load
        finally:
            watch.cancel()
        raise AssertionError("the watch ended")

    async def idle(self) -> worker_pb2.LoadReport:
        """The worker's load once it has nothing left."""
        return await self.load(lambda load: not (load.running or load.waiting or load.kv_tokens_used))

    @property
    def inflight(self) -> int:
        """Requests that the gateway is working on, or holds in its queue."""
        return self.gateway_service._admission.inflight + self.gateway_service._admission.queued

    def workers(self) -> list[WorkerState]:
        """The workers as the gateway sees them."""
        return self.gateway_service._workers.states()


@asynccontextmanager
async def running_stack(
    tier: TokenizerTier,
    *faults: Fault,
    model: FakeModel | None = None,
    worker: dict[str, Any] | None = None,
    gateway: dict[str, Any] | None = None,
) -> AsyncIterator[Stack]:
    """A worker and a gateway of their own beside the shared tokenizer service."""
    model = model or tier.model()
    common: dict[str, Any] = {"port": 0, "drain_seconds": 0}
    worker_settings = WorkerSettings(model=tier.folder, served_model_name=NAME, **(common | (worker or {})))
    worker_service = WorkerService(worker_settings, load=lambda settings, progress: FakeEngine(model, *faults))
    async with AsyncExitStack() as stack:
        worker_server = await stack.enter_async_context(ready(worker_service, worker_settings))
        worker_channel = await stack.enter_async_context(open_channel(worker_server))
        behind = {"tokenizer": (address(tier.server),), "worker": (address(worker_server),)}
        gateway_settings = GatewaySettings(**(common | behind | {"failover_seconds": 0} | (gateway or {})))
        gateway_service = GatewayService(gateway_settings)
        gateway_server = await stack.enter_async_context(ready(gateway_service, gateway_settings))
        gateway_channel = await stack.enter_async_context(open_channel(gateway_server))
        yield Stack(
            tier=tier,
            model=model,
            worker_service=worker_service,
            worker_server=worker_server,
            worker=worker_pb2_grpc.WorkerServiceStub(worker_channel),
            gateway_service=gateway_service,
            gateway_server=gateway_server,
            gateway=gateway_pb2_grpc.InferenceServiceStub(gateway_channel),
            gateway_channel=gateway_channel,
            worker_channel=worker_channel,
        )


@asynccontextmanager
async def gated_stack(tier: TokenizerTier, gate: Gate, *faults: Fault, **given: Any) -> AsyncIterator[Stack]:
    """A stack whose engine stands at `gate` before each step, the warm-up's one step apart; opened at the end."""
    gate.allow(1)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(running_stack(tier, gate, *faults, **given))
        stack.callback(gate.open)
        yield running


async def reached(gate: Gate) -> None:
    """Return once a step stands at the gate."""
    await asyncio.to_thread(gate.wait_until_reached)


def address(server: RunningServer) -> str:
    """Where `server` listens."""
    return f"127.0.0.1:{server.port}"


def open_channel(server: RunningServer) -> grpc.aio.Channel:
    """A channel as any caller opens one: nothing is set."""
    return grpc.aio.insecure_channel(address(server))


async def readiness(server: RunningServer) -> Any:
    """What `server` says about its readiness."""
    async with open_channel(server) as channel:
        request = health_pb2.HealthCheckRequest(service=READINESS)
        return (await health_pb2_grpc.HealthStub(channel).Check(request)).status
