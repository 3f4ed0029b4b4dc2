"""The HTTP port over the life of a gateway: before it is ready, while it drains, when it cannot be had."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_faults import Gate
from rpc.start_error import StartError
from tests.end_to_end.http import CHAT, HTTP, chat, http_client
from tests.end_to_end.stack import TokenizerTier, gated_stack, reached
from tests.serving import listening

pytestmark = pytest.mark.asyncio(loop_scope="session")

if TYPE_CHECKING:
    from tests.end_to_end.stack import Stack


def settings(**given: Any) -> GatewaySettings:
    nobody = ("127.0.0.1:1",)
    return GatewaySettings(port=0, drain_seconds=0, tokenizer=nobody, worker=nobody, **given)


async def test_it_answers_before_it_is_ready_and_says_that_it_is_not() -> None:
    own = settings(**HTTP)
    service = GatewayService(own)
    async with listening(service, own), httpx2.AsyncClient(trust_env=False) as client:
        assert service.http is not None
        url = f"http://127.0.0.1:{service.http.port}"
        assert (await client.get(f"{url}/health")).status_code == 200
        assert (await client.get(f"{url}/ready")).status_code == 503
        response = await client.post(url + CHAT, json=chat())
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "no_worker"


async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        own = settings(http_port=port)
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with listening(GatewayService(own), own):
                pass


async def streaming(stack: Stack, client: httpx2.AsyncClient) -> asyncio.Task[list[str]]:
    async def read() -> list[str]:
        async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            return [line async for line in response.aiter_lines() if line]

    return asyncio.create_task(read())


async def test_a_stream_that_runs_ends_well_while_the_gateway_stops(tier: TokenizerTier) -> None:
    gate = Gate()
    async with gated_stack(tier, gate, gateway=HTTP) as stack, http_client(stack) as client:
        reading = await streaming(stack, client)
        await reached(gate)
        stack.gateway_server.stop()
        await asyncio.sleep(0)
        gate.open()
        assert (await reading)[-1] == "data: [DONE]"


async def test_a_stream_that_outlasts_the_grace_is_told_so(tier: TokenizerTier) -> None:
    gate = Gate()
    gateway = HTTP | {"grace_seconds": 0.1}
    async with gated_stack(tier, gate, gateway=gateway) as stack, http_client(stack) as client:
        gate.allow(3)
        reading = await streaming(stack, client)
        await stack.load(lambda load: load.running == 1)
        stack.gateway_server.stop()
        *_, last = await reading
        assert "SHUTTING_DOWN".lower() in last
        gate.open()
