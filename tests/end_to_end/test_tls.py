"""mTLS on every hop: every port and every kind of client, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from gateway.fleet.watching import answers
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from rpc.lifecycle import EXIT_OK
from rpc.start_error import StartError
from rpc.status import from_rpc_error
from rpc.tls.client import client_tls
from rpc.tls.pem import PemFiles
from rpc.transport import open_channel
from tests.certificates import Authority
from tests.end_to_end.http import CHAT, chat
from tests.end_to_end.requests import generate
from tests.end_to_end.stack import NAME, address
from tests.end_to_end.tls_stack import CALLER, TlsStack, caller_of, https_client, secure_channel, tls_stack
from tests.rpc.scripted_service import ScriptedService, settings
from tests.serving import listening
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, tokenizer_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")

CROWD = 300
SERVICES = {
    "gateway": gateway_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    "tokenizer": tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"],
    "worker": worker_pb2.DESCRIPTOR.services_by_name["WorkerService"],
}
METHODS = [
    (name, f"/{service.full_name}/{method.name}") for name, service in SERVICES.items() for method in service.methods
]
REFLECTION = f"/{reflection_pb2.DESCRIPTOR.services_by_name['ServerReflection'].full_name}/ServerReflectionInfo"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TlsStack]:
    async with tls_stack(tmp_path_factory.mktemp("tls")) as running:
        yield running


def channel_as(stack: TlsStack, client: str, port: int) -> grpc.aio.Channel:
    if client == "plain":
        return grpc.aio.insecure_channel(f"localhost:{port}")
    who = stack.who
    pair = None if client == "nobody" else getattr(who, client)
    return secure_channel(port, who.authority.file.read_bytes(), pair)


async def outcome(channel: grpc.aio.Channel, method: str) -> str:
    """The reason that a call of `method`, whatever its shape, fails with; the library's code if there is no reason."""
    call = channel.stream_stream(method)()
    try:
        await call.write(b"")
        await call.done_writing()
        async for _ in call:
            call.cancel()
            return "OK"
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "it").reason if error.trailing_metadata() else error.code().name
    return "OK"


async def check_health(channel: grpc.aio.Channel) -> Any:
    return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


async def test_text_goes_through_all_hops(stack: TlsStack) -> None:
    async with caller_of(stack) as gateway:
        answer = await gateway.Generate(generate())
        assert answer.usage.completion_tokens == 10


@pytest.mark.parametrize("client", ["plain", "nobody", "foreign", "pretender", "expired"])
@pytest.mark.parametrize("service", SERVICES)
async def test_whom_no_authority_of_ours_vouches_for_does_not_get_a_connection(
    stack: TlsStack, service: str, client: str
) -> None:
    async with channel_as(stack, client, getattr(stack, service).port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check_health(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("service", "method"), [*METHODS, *((name, REFLECTION) for name in SERVICES)])
async def test_a_client_with_another_name_may_call_nothing(stack: TlsStack, service: str, method: str) -> None:
    async with channel_as(stack, "stranger", getattr(stack, service).port) as channel:
        assert await outcome(channel, method) == "CLIENT_NOT_ACCEPTED"


@pytest.mark.parametrize("service", SERVICES)
async def test_but_ask_for_health(stack: TlsStack, service: str) -> None:
    async with channel_as(stack, "stranger", getattr(stack, service).port) as channel:
        assert (await check_health(channel)).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["tokenizer", "worker"])
async def test_a_caller_of_the_gateway_may_not_call_what_is_behind_it(stack: TlsStack, service: str) -> None:
    authorities = stack.who.authority.file.read_bytes()
    async with secure_channel(getattr(stack, service).port, authorities, stack.who.caller) as channel:
        for name, method in METHODS:
            if name == service:
                assert await outcome(channel, method) == "CLIENT_NOT_ACCEPTED"


@pytest.mark.parametrize(("service", "method"), [*METHODS, *((name, REFLECTION) for name in SERVICES)])
async def test_a_services_calls_to_itself_have_a_port_where_nothing_but_health_is_answered(
    stack: TlsStack, service: str, method: str
) -> None:
    port = getattr(stack, service)._own_port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await outcome(channel, method) == "CLIENT_NOT_ACCEPTED"
        assert (await check_health(channel)).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_client_that_does_not_trust_the_server_does_not_call_it(stack: TlsStack) -> None:
    who = stack.who
    async with secure_channel(stack.gateway.port, who.foreign_authority.file.read_bytes(), who.caller) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await check_health(channel)


def context_as(stack: TlsStack, client: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(stack.who.authority.file))
    who = stack.who
    if client != "nobody":
        pair = getattr(who, client)
        context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_http_is_served_over_tls_to_callers(stack: TlsStack) -> None:
    async with https_client(stack.url, context_as(stack, "caller")) as client:
        response = await client.post(CHAT, json=chat())
        assert response.status_code == 200, response.text
        assert response.json()["model"] == NAME


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/", "/docs", "/nowhere"])
async def test_http_refuses_a_client_with_another_name(stack: TlsStack, path: str) -> None:
    async with https_client(stack.url, context_as(stack, "stranger")) as client:
        response = await client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "client_not_accepted")


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_http_tells_it_of_health(stack: TlsStack, path: str) -> None:
    async with https_client(stack.url, context_as(stack, "stranger")) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("client", ["nobody", "foreign", "pretender", "expired"])
async def test_http_gives_whom_nobody_vouches_for_no_connection(stack: TlsStack, client: str) -> None:
    async with https_client(stack.url, context_as(stack, client)) as asking:
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await asking.get("/health")


async def test_http_without_tls_is_not_answered(stack: TlsStack) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get(f"http://localhost:{stack.http_port}/health")


HALF_GIVEN = {
    "a certificate without its key": ({"ssl_certfile": "server.crt"}, "--ssl-certfile needs --ssl-keyfile"),
    "a key without its certificate": ({"ssl_keyfile": "server.key"}, "--ssl-keyfile needs --ssl-certfile"),
    "authorities alone": ({"ssl_ca_certs": "authority.pem"}, "--ssl-ca-certs needs --ssl-certfile and --ssl-keyfile"),
    "names for nobody": (
        {"ssl_certfile": "server.crt", "ssl_keyfile": "server.key", "ssl_client_names": (CALLER,)},
        "--ssl-client-names needs --ssl-ca-certs",
    ),
    "no such file": ({"ssl_certfile": "none.crt", "ssl_keyfile": "server.key"}, "--ssl-certfile: .*No such file"),
    "another one's key": ({"ssl_certfile": "server.crt", "ssl_keyfile": "other.key"}, "--ssl-certfile: .*its own"),
    "authorities that are none": (
        {"ssl_certfile": "server.crt", "ssl_keyfile": "server.key", "ssl_ca_certs": "server.key"},
        "--ssl-ca-certs: .*PEM",
    ),
}


@pytest.mark.parametrize(("given", "message"), HALF_GIVEN.values(), ids=HALF_GIVEN)
async def test_what_is_half_given_is_refused_by_name(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    authority = Authority(tmp_path)
    authority.pair("server")
    authority.pair("other")
    paths = {name: tmp_path / value if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(StartError, match=message):
        async with listening(ScriptedService(), settings(**paths)):
            pass


async def test_calls_that_came_in_before_the_stop_are_answered_over_tls_too(stack: TlsStack) -> None:
    own = settings(**stack.who.serving(stack.who.worker))
    async with listening(ScriptedService(), own) as server:
        await server.ready.wait()
        authorities = stack.who.authority.file.read_bytes()
        async with secure_channel(server.port, authorities, stack.who.caller) as channel:
            gateway = gateway_pb2_grpc.InferenceServiceStub(channel)
            await gateway.Generate(gateway_pb2.GenerateRequest())
            calls = [gateway.Generate(gateway_pb2.GenerateRequest()) for _ in range(CROWD)]
            await asyncio.sleep(0)  # sent now, though our server's loop, which is this one, has not seen any
            server.stop()
            assert await server.life == EXIT_OK
            assert {await call.code() for call in calls} == {grpc.StatusCode.OK}


HALF_GIVEN_BACKEND = {
    "a certificate alone": ({"backend_ssl_certfile": "gateway.crt"}, "--backend-ssl-certfile needs --backend-ssl-keyf"),
    "without authorities": (
        {"backend_ssl_certfile": "gateway.crt", "backend_ssl_keyfile": "gateway.key"},
        "--backend-ssl-certfile needs --backend-ssl-ca-certs",
    ),
    "a name alone": ({"backend_ssl_server_name": "worker"}, "--backend-ssl-server-name needs --backend-ssl-ca-certs"),
}


@pytest.mark.parametrize(("given", "message"), HALF_GIVEN_BACKEND.values(), ids=HALF_GIVEN_BACKEND)
async def test_so_is_what_is_half_given_towards_the_tiers(stack: TlsStack, given: dict[str, Any], message: str) -> None:
    folder = stack.who.folder
    files = {name: value if name.endswith("name") else folder / value for name, value in given.items()}
    with pytest.raises(StartError, match=message):
        GatewayService(GatewaySettings(tokenizer=("localhost:1",), worker=("localhost:1",), **files))


async def test_a_name_of_ones_own_is_looked_for_where_targets_are_addresses(stack: TlsStack, tmp_path: Path) -> None:
    who = stack.who
    serving_pair = who.authority.pair("worker.internal", "nothing.else", file="named-worker")
    own = settings(**who.serving(serving_pair))
    async with listening(ScriptedService(), own) as server:
        for name, expected in (("worker.internal", True), ("another.internal", False)):
            tls = client_tls(
                PemFiles("--backend-ssl", who.gateway.certificate, who.gateway.key, who.authority.file), name
            )
            async with open_channel(address(server), tls) as channel:
                assert await answers(channel, 5.0) == expected


async def test_a_gateway_that_is_refused_says_so_in_its_log(stack: TlsStack, caplog: pytest.LogCaptureFixture) -> None:
    stranger, behind = stack.who.stranger, (address(stack.worker),)
    files = {"backend_ssl_certfile": stranger.certificate, "backend_ssl_keyfile": stranger.key}
    own = GatewaySettings(
        port=0, drain_seconds=0, tokenizer=behind, worker=behind, backend_ssl_ca_certs=stack.who.authority.file, **files
    )
    told = asyncio.Event()
    tell = logging.Handler()
    tell.emit = lambda record: told.set() if record.getMessage() == "not watched" else None  # type: ignore[method-assign]
    logger = logging.getLogger("tokenmill.gateway.watching")
    logger.addHandler(tell)
    try:
        async with listening(GatewayService(own), own) as server:
            await told.wait()
            assert not server.ready.is_set()
    finally:
        logger.removeHandler(tell)
    assert {record.levelname for record in caplog.records if record.getMessage() == "not watched"} == {"WARNING"}


@pytest.mark.parametrize(("authority", "expected"), [("authority", True), ("foreign_authority", False)])
async def test_tls_without_certificates_of_clients_verifies_the_server_all_the_same(
    stack: TlsStack, authority: str, expected: bool
) -> None:
    worker = stack.who.worker
    own = settings(ssl_certfile=worker.certificate, ssl_keyfile=worker.key)
    async with listening(ScriptedService(), own) as server:
        trusted = getattr(stack.who, authority).file
        tls = client_tls(PemFiles("--backend-ssl", None, None, trusted), "")
        async with open_channel(address(server), tls) as channel:
            assert await answers(channel, 5.0) == expected
