"""A whole mill to be watched: two models, an adapter, two workers of one model, TLS, keys, and what can go wrong there.

Every service has its own metrics port; engines are arithmetic.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engine import RowFailure
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import fail_rows, seconds_per_step
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from tests.certificates import Authority
from tests.end_to_end.access import EXPIRED_KEY, NARROW_KEY, RIGHT_KEY, Issuer, write_access
from tests.end_to_end.http import CHAT, completion
from tests.end_to_end.http import chat as http_chat
from tests.end_to_end.requests import Stopping, chat, generate
from tests.end_to_end.stack import NAME, address, write_model_folder
from tests.end_to_end.test_fleet import other_vocabulary
from tests.end_to_end.tls_stack import https_client, secure_channel
from tests.serving import ready
from tests.tokenizers_for_tests import byte_level_tokenizer
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import httpx2

    from model_worker.engine import Segment
    from model_worker.engines.fake_faults import Fault
    from tests.serving import RunningServer

OTHER = "other"
ADAPTER = "poet"
FAILING_TOKENS = 3  # outputs of so many fail in the engine
BURST = 12
SHORT = Stopping(max_new_tokens=5)


class Strike:
    """An engine's fault: nothing, until it is told to break the engine."""

    def __init__(self) -> None:
        self.is_on = False

    def __call__(self, step: int, segments: Sequence[Segment]) -> None:
        if self.is_on:
            raise RuntimeError("struck")


@dataclass
class Mill:
    """All of it, ready."""

    servers: dict[str, RunningServer]  # by job, with a number where there are several
    strike: Strike  # breaks one of two workers of NAME
    gateway: Any
    http: httpx2.AsyncClient

    @property
    def targets(self) -> dict[str, list[str]]:
        """Where metrics are, by job."""
        found: dict[str, list[str]] = {}
        for name, server in self.servers.items():
            assert server.metrics_port is not None
            found.setdefault(name.partition(" ")[0], []).append(f"127.0.0.1:{server.metrics_port.port}")
        return found

    async def traffic(self) -> None:
        """Requests of every kind, of which many are refused or fail."""
        right = bearing(RIGHT_KEY)
        for text in ("The quick brown fox", "A list of colors"):
            await self.gateway.Generate(generate(text, "one", model=NAME, stopping=SHORT), metadata=right)
        await self.gateway.Chat(chat(model=ADAPTER, stopping=SHORT), metadata=right)
        await self.http.post(CHAT, json=http_chat(), headers=dict(right))
        await self.http.post("/v1/completions", json=completion(model=OTHER), headers=dict(right))
        await self._leave()
        ask, burst = self.gateway.Generate, generate(model=NAME, stopping=SHORT)
        failing = generate(model=OTHER, stopping=Stopping(max_new_tokens=FAILING_TOKENS))
        refused = [
            ask(generate(model="none"), metadata=right),
            ask(generate(model=NAME, stopping=Stopping(max_new_tokens=0)), metadata=right),
            ask(failing, metadata=right),
            ask(generate(model=NAME), metadata=right, timeout=0.001),
            *(ask(burst, metadata=bearing(key)) for key in (NARROW_KEY, EXPIRED_KEY, "x")),
            ask(burst),
            self.http.post(CHAT, json=http_chat()),
            self.http.get("/nothing/here", headers=dict(right)),
            *(ask(burst, metadata=right) for _ in range(BURST)),
        ]
        await asyncio.gather(*refused, return_exceptions=True)

    async def _leave(self) -> None:
        """In the middle of a stream."""
        long = generate(model=NAME, stopping=Stopping(max_new_tokens=400))
        stream = self.gateway.StreamGenerate(long, metadata=bearing(RIGHT_KEY))
        await stream.read()
        stream.cancel()


def bearing(credential: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {credential}"),)


@asynccontextmanager
async def mill(folder: Path) -> AsyncIterator[Mill]:
    """Start everything; whatever still runs is stopped in order at the end."""
    tiny = write_model_folder(folder / "tiny")
    (folder / "wrong").mkdir()
    wrong = other_vocabulary(folder / "wrong")
    strike = Strike()
    fails = fail_rows(
        RowFailure("SAMPLING_FAILED", "no"), lambda _, segment: segment.sequence.params.max_new_tokens == FAILING_TOKENS
    )
    common: dict[str, Any] = {"port": 0, "metrics_port": 0, "drain_seconds": 0}
    async with AsyncExitStack() as stack:

        async def worker(where: Path, name: str, *faults: Fault) -> RunningServer:
            settings = WorkerSettings(model=where, served_model_name=name, max_num_seqs=4, **common)
            vocabulary_size = max(byte_level_tokenizer().get_vocab().values()) + 1
            model = FakeModel(vocabulary_size=vocabulary_size, adapters=(ADAPTER,) if name == NAME else ())
            engine = FakeEngine(model, seconds_per_step(0.002), *faults)
            service = WorkerService(settings, load=lambda settings, progress: engine)
            return await stack.enter_async_context(ready(service, settings))

        settings = TokenizerSettings(model=(f"{NAME}={tiny}", f"{OTHER}={tiny}"), threads=1, **common)
        servers = {"tokenizer": await stack.enter_async_context(ready(TokenizerService(settings), settings))}
        servers["worker 1"] = await worker(tiny, NAME)
        servers["worker 2"] = await worker(tiny, NAME, strike)
        servers["worker 3"] = await worker(tiny, OTHER, fails)
        servers["worker 4"] = await worker(wrong, OTHER)
        workers = [address(server) for name, server in servers.items() if name.startswith("worker")]
        authority = Authority(folder)
        pair = authority.pair("gateway")
        gateway = GatewaySettings(
            tokenizer=(address(servers["tokenizer"]),),
            worker=tuple(workers),
            http_port=0,
            ssl_certfile=pair.certificate,
            ssl_keyfile=pair.key,
            max_inflight=2,
            max_queue=2,
            **write_access(folder, Issuer()),
            **common,
        )
        service = GatewayService(gateway)
        servers["gateway"] = await stack.enter_async_context(ready(service, gateway))
        while len(service._workers.ready_models()) < len(workers) + 2:  # adapters are models
            await service._workers.wait_for_change()
        assert service.http is not None
        channel = secure_channel(servers["gateway"].port, authority.file.read_bytes(), None)
        stub = gateway_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(channel))
        url = f"https://localhost:{service.http.port}"
        http = await stack.enter_async_context(https_client(url, _trusting(authority)))
        yield Mill(servers, strike, stub, http)


def _trusting(authority: Authority) -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context(cafile=str(authority.file))
