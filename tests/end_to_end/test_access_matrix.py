"""Every RPC and route, with every kind of credential, over every kind of connection. What is in no table fails."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool
from grpc.aio._server import Server
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.http.app import _wrong_method
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from rpc.status import from_rpc_error
from tests.end_to_end.access import RIGHT_KEY, Issuer, credentials, write_access
from tests.end_to_end.http import CHAT, COMPLETIONS, HTTP, RESPONSES, chat, completion, http_stack, url_of
from tests.end_to_end.requests import chat as chat_request
from tests.end_to_end.requests import generate
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, running_stack
from tests.end_to_end.tls_stack import CALLER, Identities, https_client, secure_channel
from tests.serving import listening
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

pytestmark = pytest.mark.asyncio(loop_scope="session")

INFERENCE = gateway_pb2.DESCRIPTOR.services_by_name["InferenceService"]
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"
# Of each service of the port, whether a credential is needed.
SERVICES = {INFERENCE.full_name: True, REFLECTION: True, HEALTH: False}
# Of each method, requests that the right credential has answered.
RPCS = {
    "Generate": generate(model=NAME),
    "StreamGenerate": generate(model=NAME),
    "Chat": chat_request(model=NAME),
    "StreamChat": chat_request(),
    "CountTokens": gateway_pb2.CountTokensRequest(generate=generate()),
    "ListModels": gateway_pb2.ListModelsRequest(),
    "GetModel": gateway_pb2.GetModelRequest(model=NAME),
}
OPEN, FILTERED, ALL_MODELS, OF_MODEL = "open", "shows what may be used", "for all models", "of one model"
# Of each route: a request that the right credential has answered, and what a credential for another model is answered.
ROUTES: dict[tuple[str, str], tuple[Any, str]] = {
    ("POST", CHAT): (chat(), OF_MODEL),
    ("POST", COMPLETIONS): (completion(), OF_MODEL),
    ("POST", RESPONSES): ({"model": NAME, "input": "A list of colors", "max_output_tokens": 10}, OF_MODEL),
    ("GET", "/v1/models"): (None, FILTERED),
    ("GET", "/v1/models/{model:path}"): (None, OF_MODEL),
    ("POST", "/tokenize"): ({"model": NAME, "prompt": "A list"}, OF_MODEL),
    ("POST", "/detokenize"): ({"model": NAME, "tokens": [5, 6]}, OF_MODEL),
    ("GET", "/health"): (None, OPEN),
    ("GET", "/ready"): (None, OPEN),
    ("GET", "/"): (None, OPEN),
    ("GET", "/version"): (None, FILTERED),
    ("GET", "/metrics"): (None, ALL_MODELS),
    ("GET", "/openapi.json"): (None, FILTERED),
    ("GET", "/docs"): (None, FILTERED),
    ("GET", "/workers"): (None, ALL_MODELS),
}
HTTP_CODES = {
    "MISSING_CREDENTIALS": (401, "missing_credentials"),
    "INVALID_CREDENTIALS": (401, "invalid_api_key"),
    "EXPIRED_CREDENTIALS": (401, "expired_credentials"),
    "MODEL_NOT_ALLOWED": (403, "model_not_allowed"),
}
ISSUER = Issuer()
CREDENTIALS = credentials(ISSUER)
RIGHT = {"authorization": f"Bearer {RIGHT_KEY}"}


@dataclass
class Port:
    """Both of a gateway's ports, as a caller has them."""

    stack: Stack
    channel: grpc.aio.Channel
    http: httpx2.AsyncClient
    gateway: Any = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = gateway_pb2_grpc.InferenceServiceStub(self.channel)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["plain", "TLS", "mTLS"])
async def port(
    request: pytest.FixtureRequest, tier: TokenizerTier, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Port]:
    folder = tmp_path_factory.mktemp("access")
    who = Identities(folder)
    settings = write_access(folder, ISSUER)
    if request.param == "plain":
        async with http_stack(tier, gateway=settings) as (stack, http):
            yield Port(stack, stack.gateway_channel, http)
        return
    serving = who.serving(who.gateway, CALLER)
    if request.param == "TLS":
        del serving["ssl_ca_certs"], serving["ssl_client_names"]
    caller = who.caller if request.param == "mTLS" else None
    context = ssl.create_default_context(cafile=str(who.authority.file))
    if caller is not None:
        context.load_cert_chain(caller.certificate, caller.key)
    async with running_stack(tier, gateway=HTTP | settings | serving) as stack:
        url = url_of(stack).replace("http://127.0.0.1", "https://localhost")
        authorities = who.authority.file.read_bytes()
        async with (
            secure_channel(stack.gateway_server.port, authorities, caller) as channel,
            https_client(url, context) as http,
        ):
            yield Port(stack, channel, http)


def headers(credential: str) -> dict[str, str]:
    authorization, _ = CREDENTIALS[credential]
    return {} if authorization is None else {"authorization": authorization}


async def reflected(port: Port, given: dict[str, str]) -> list[str]:
    """The services that the port says it has."""
    stub = reflection_pb2_grpc.ServerReflectionStub(port.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = [one async for one in stub.ServerReflectionInfo(asked, metadata=tuple(given.items()))]
    return [service.name for service in answers[0].list_services_response.service]


async def rpc(port: Port, method: str, given: dict[str, str]) -> Any:
    """The last message of the answer. Errors: AioRpcError."""
    call = getattr(port.gateway, method)(RPCS[method], metadata=tuple(given.items()))
    if INFERENCE.methods_by_name[method].server_streaming:
        return [event async for event in call][-1]
    return await call


async def reason_of(attempt: Any) -> str:
    """What it is refused for, with the code that belongs to that; empty: it is not."""
    [answer] = await asyncio.gather(attempt, return_exceptions=True)
    if not isinstance(answer, BaseException):
        return ""
    assert isinstance(answer, grpc.aio.AioRpcError)
    refused = from_rpc_error(answer, "the gateway")
    is_known = refused.reason == "MODEL_NOT_ALLOWED"
    assert answer.code() is (grpc.StatusCode.PERMISSION_DENIED if is_known else grpc.StatusCode.UNAUTHENTICATED)
    return refused.reason


async def test_the_tables_have_every_service_method_and_route(port: Port) -> None:
    assert sorted(await reflected(port, RIGHT)) == sorted(SERVICES)
    assert RPCS.keys() == set(INFERENCE.methods_by_name)
    http = port.stack.gateway_service.http
    assert http is not None
    routes = http._app.routes  # type: ignore[attr-defined]
    served = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert served == ROUTES.keys()
    # One that takes every method is there to say that another one is meant.
    assert {route.path for route in routes if route.methods is None} == {path for _, path in ROUTES}
    assert {route.endpoint.handler for route in routes if route.methods is None} == {_wrong_method}


async def test_nothing_is_served_that_reflection_does_not_tell_of(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[str] = []
    add = Server.add_generic_rpc_handlers

    def noted(server: Server, handlers: Any) -> None:
        added.extend(handler.service_name() for handler in handlers)
        add(server, handlers)

    monkeypatch.setattr(Server, "add_generic_rpc_handlers", noted)
    nobody = ("127.0.0.1:1",)
    own = GatewaySettings(port=0, drain_seconds=0, tokenizer=nobody, worker=nobody)
    async with listening(GatewayService(own), own):
        assert sorted(added) == sorted(SERVICES)


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("method", RPCS)
async def test_every_rpc(port: Port, method: str, credential: str) -> None:
    _, reason = CREDENTIALS[credential]
    is_filtered = reason == "MODEL_NOT_ALLOWED" and method == "ListModels"
    assert await reason_of(rpc(port, method, headers(credential))) == ("" if is_filtered else reason)
    if is_filtered:
        assert not (await rpc(port, method, headers(credential))).models


@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_reflection(port: Port, credential: str) -> None:
    _, reason = CREDENTIALS[credential]
    expected = "" if reason == "MODEL_NOT_ALLOWED" else reason
    assert await reason_of(reflected(port, headers(credential))) == expected


@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_health_is_open_to_everybody(port: Port, credential: str) -> None:
    service = descriptor_pool.Default().FindServiceByName(HEALTH)
    for method in service.methods:
        call = port.channel.unary_stream(f"/{HEALTH}/{method.name}")(b"", metadata=tuple(headers(credential).items()))
        assert await call.read() is not grpc.aio.EOF
        call.cancel()


async def test_a_method_that_does_not_exist_is_not_told_of_without_a_credential(port: Port) -> None:
    for method in ("/tokenmill.v1.InferenceService/Nothing", f"/{HEALTH}/Nothing", "/other.Service/Nothing"):
        call = port.channel.unary_unary(method)
        assert await reason_of(call(b"")) == "MISSING_CREDENTIALS"


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
async def test_every_route(port: Port, method: str, path: str, credential: str) -> None:
    body, kind = ROUTES[method, path]
    _, reason = CREDENTIALS[credential]
    if kind == OPEN or (reason == "MODEL_NOT_ALLOWED" and kind == FILTERED):
        reason = ""
    where = path.replace("{model:path}", NAME)
    response = await port.http.request(method, where, json=body, headers=headers(credential))
    if not reason:
        assert response.status_code == 200, response.text
        if CREDENTIALS[credential][1] and path == "/v1/models":
            assert response.json()["data"] == []
        return
    assert (response.status_code, response.json()["error"]["code"]) == HTTP_CODES[reason]
    assert response.headers.get("www-authenticate") == ("Bearer" if response.status_code == 401 else None)


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("DELETE", "/v1/models"), ("POST", "/health")])
async def test_what_there_is_not_is_not_told_of_without_a_credential(port: Port, method: str, path: str) -> None:
    assert (await port.http.request(method, path)).status_code == 401
    assert (await port.http.request(method, path, headers=RIGHT)).status_code in {404, 405}


async def test_a_stream_is_refused_before_it_begins(port: Port) -> None:
    response = await port.http.post(CHAT, json=chat(stream=True), headers=headers("key for another model"))
    assert response.status_code == 403
