"""The three services with mTLS on every hop, as an operator would set it up, and their callers."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import httpx2

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from tests.certificates import DAY, Authority
from tests.end_to_end.stack import NAME, address, write_model_folder
from tests.serving import ready
from tests.tokenizers_for_tests import byte_level_tokenizer
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from model_worker.engines.fake_faults import Fault
    from tests.certificates import Pair
    from tests.serving import RunningServer

GATEWAY_URI = "spiffe://mill.example/gateway"
CALLER = "caller.example"
NEW_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # instead of one that another channel has opened


@dataclass
class Identities:
    """Who there is; `foreign` is another authority's, `expired` was our caller once, `stranger` calls nobody."""

    folder: Path
    authority: Authority = field(init=False)
    foreign_authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(self.folder)
        self.foreign_authority = Authority(self.folder, "foreign-authority")
        self.gateway = self.authority.pair("gateway", GATEWAY_URI, "localhost", "127.0.0.1")
        self.tokenizer, self.worker = self.authority.pair("tokenizer"), self.authority.pair("worker")
        self.caller, self.stranger = self.authority.pair(CALLER), self.authority.pair("stranger")
        self.expired = self.authority.pair(CALLER, file="expired", age=2 * DAY)
        self.foreign = self.foreign_authority.pair(CALLER, file="foreign")
        self.pretender = self.foreign_authority.pair("gateway", GATEWAY_URI, file="pretender")

    def serving(self, pair: Pair, *names: str) -> dict[str, Any]:
        """The settings of a service that is `pair` and lets `names` in."""
        own = {"ssl_certfile": pair.certificate, "ssl_keyfile": pair.key}
        return own | {"ssl_ca_certs": self.authority.file, "ssl_client_names": names}

    def calling(self) -> dict[str, Any]:
        """The settings of the gateway towards the others."""
        own = {"backend_ssl_certfile": self.gateway.certificate, "backend_ssl_keyfile": self.gateway.key}
        return own | {"backend_ssl_ca_certs": self.authority.file}


@dataclass
class TlsStack:
    """All of it, ready."""

    who: Identities
    tokenizer: RunningServer
    worker: RunningServer
    gateway: RunningServer
    service: GatewayService

    @property
    def url(self) -> str:
        assert self.service.http is not None
        return f"https://localhost:{self.service.http.port}"

    @property
    def http_port(self) -> int:
        assert self.service.http is not None
        return self.service.http.port


@asynccontextmanager
async def tls_stack(folder: Path, *faults: Fault, **gateway: Any) -> AsyncIterator[TlsStack]:
    """Callers have to be CALLER; the other services let the gateway in and nobody else."""
    who = Identities(folder / "certificates")
    model_folder = write_model_folder(folder / "tiny")
    common: dict[str, Any] = {"port": 0, "drain_seconds": 0}
    tokenizer = TokenizerSettings(
        model=(f"{NAME}={model_folder}",), threads=1, **common, **who.serving(who.tokenizer, GATEWAY_URI)
    )
    worker = WorkerSettings(
        model=model_folder, served_model_name=NAME, **common, **who.serving(who.worker, GATEWAY_URI)
    )
    model = FakeModel(vocabulary_size=max(byte_level_tokenizer().get_vocab().values()) + 1)
    async with AsyncExitStack() as stack:
        tokenizer_server = await stack.enter_async_context(ready(TokenizerService(tokenizer), tokenizer))
        worker_service = WorkerService(worker, load=lambda settings, progress: FakeEngine(model, *faults))
        worker_server = await stack.enter_async_context(ready(worker_service, worker))
        behind = {"tokenizer": (address(tokenizer_server),), "worker": (address(worker_server),)}
        own = common | behind | who.serving(who.gateway, CALLER) | who.calling()
        settings = GatewaySettings(**(own | {"http_port": 0, "failover_seconds": 0} | gateway))
        service = GatewayService(settings)
        gateway_server = await stack.enter_async_context(ready(service, settings))
        yield TlsStack(who, tokenizer_server, worker_server, gateway_server, service)


def secure_channel(port: int, authorities: bytes, pair: Pair | None, **options: Any) -> grpc.aio.Channel:
    """A connection of its own to `port`, as who `pair` is."""
    key, chain = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
    own = grpc.ssl_channel_credentials(authorities, key, chain)
    return grpc.aio.secure_channel(f"localhost:{port}", own, options=[*NEW_CONNECTION, *options.items()])


@asynccontextmanager
async def caller_of(stack: TlsStack, pair: Pair | None = None) -> AsyncIterator[Any]:
    """A stub of the gateway over a connection of its own."""
    who = stack.who
    async with secure_channel(stack.gateway.port, who.authority.file.read_bytes(), pair or who.caller) as channel:
        yield gateway_pb2_grpc.InferenceServiceStub(channel)


@asynccontextmanager
async def https_client(url: str, context: ssl.SSLContext) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as client:
        yield client
