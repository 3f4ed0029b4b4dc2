"""The admin ports of the three services, while they serve."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
import pytest

from cli.failure import UNAVAILABLE, WRONG_USAGE
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_faults import Gate
from rpc.admin.app import ROUTES
from rpc.status import from_rpc_error
from tests.end_to_end.http import HTTP, url_of
from tests.end_to_end.requests import chat, generate, message
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, address, gated_stack, reached, running_stack
from tests.end_to_end.test_command import command
from tests.serving import listening, ready
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.serving import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = {"admin_port": 0}
JSON = {"content-type": "application/json"}
MARKER = "a-text-that-nobody-may-see"


def admin_of(server: RunningServer) -> httpx2.AsyncClient:
    assert server.admin_port is not None
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port.port}", trust_env=False)


@asynccontextmanager
async def operated_stack(
    tier: TokenizerTier, **given: Any
) -> AsyncIterator[tuple[Stack, httpx2.AsyncClient, httpx2.AsyncClient]]:
    """A stack, and clients of the admin ports of its worker and its gateway."""
    async with (
        running_stack(tier, worker=ADMIN, gateway=ADMIN | given) as stack,
        admin_of(stack.worker_server) as worker,
        admin_of(stack.gateway_server) as gateway,
    ):
        yield stack, worker, gateway


async def test_a_worker_shows_its_model(tier: TokenizerTier) -> None:
    async with operated_stack(tier) as (stack, worker, _):
        told = (await worker.get("/models")).json()
        [model] = told["models"]
        description = await stack.worker.GetWorker(worker_pb2.GetWorkerRequest())
        assert (told["worker_id"], told["instance_id"]) == (description.worker_id, description.instance_id)
        assert told["progress"] == {"stage": "ready", "fraction": 1.0}
        for name in ("quantization", "dtype", "device", "vocabulary_fingerprint", "max_num_seqs", "context_length"):
            assert model[name] == getattr(description, name)
        assert model["name"] == NAME
        assert model["kv_tokens_capacity"] == description.kv_capacity_tokens
        assert (model["adapters"], model["rows_running"], model["rows_waiting"]) == ([], 0, 0)


async def test_a_gateway_shows_its_models_and_who_computes_them(tier: TokenizerTier) -> None:
    async with operated_stack(tier, model_alias=(f"other={NAME}",)) as (stack, _, gateway):
        told = (await gateway.get("/models")).json()
        [model], [worker], [tokenizer] = told["models"], told["workers"], told["tokenizers"]
        assert (model["name"], model["base"], model["aliases"], model["ready_workers"]) == (NAME, NAME, ["other"], 1)
        assert worker["target"] == address(stack.worker_server)
        assert (worker["ready"], worker["breaker"], worker["lost"], worker["models"]) == (True, "closed", False, [NAME])
        assert tokenizer["target"] == address(tier.server)
        assert (tokenizer["ready"], tokenizer["breaker"]) == (True, "closed")


async def test_a_gateway_that_waits_for_the_others_shows_whom_it_waits_for() -> None:
    nobody = {"tokenizer": ("127.0.0.1:1",), "worker": ("127.0.0.1:2", "127.0.0.1:3")}
    own = GatewaySettings(port=0, drain_seconds=0, **nobody, admin_port=0)
    async with listening(GatewayService(own), own) as server, admin_of(server) as client:
        told = (await client.get("/models")).json()
        assert told["models"] == []
        workers = {worker["target"]: worker["ready"] for worker in told["workers"]}
        assert workers == dict.fromkeys(nobody["worker"], False)
        assert [tokenizer["target"] for tokenizer in told["tokenizers"]] == list(nobody["tokenizer"])


async def test_a_tokenizer_service_shows_its_tokenizers(tier: TokenizerTier) -> None:
    own = TokenizerSettings(model=(f"{NAME}={tier.folder}",), port=0, drain_seconds=0, threads=1, admin_port=0)
    async with ready(TokenizerService(own), own) as server, admin_of(server) as client:
        [model] = (await client.get("/models")).json()["models"]
    assert model["name"] == NAME
    assert model["vocabulary_size"] == max(tier.tokenizer.get_vocab().values()) + 1
    assert len(model["vocabulary_fingerprint"]) == len(model["template_fingerprint"]) == 64


async def test_a_drained_gateway_is_not_ready_and_answers(tier: TokenizerTier) -> None:
    async with operated_stack(tier, **HTTP) as (stack, _, gateway), httpx2.AsyncClient(trust_env=False) as client:
        await gateway.post("/drain", headers=JSON)
        assert (await client.get(url_of(stack) + "/ready")).status_code == 503
        assert (await client.get(url_of(stack) + "/health")).status_code == 200
        assert (await stack.gateway.Generate(generate())).usage.completion_tokens == 10
        await gateway.delete("/drain", headers=JSON)
        assert (await client.get(url_of(stack) + "/ready")).status_code == 200


async def test_a_drained_worker_finishes_its_streams_and_gets_nothing_new_until_that_is_taken_back(
    tier: TokenizerTier,
) -> None:
    gate = Gate()
    async with (
        gated_stack(tier, gate, worker=ADMIN) as stack,
        admin_of(stack.worker_server) as worker,
    ):
        running = asyncio.ensure_future(stack.gateway.Generate(generate()))
        await reached(gate)
        assert (await worker.post("/drain", headers=JSON)).json()["running_calls"] == 1
        while any(state.ready for state in stack.workers()):
            await stack.gateway_service._workers.wait_for_change()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.gateway.Generate(generate())
        assert from_rpc_error(caught.value, "the gateway").reason == "NO_WORKER"
        gate.open()
        assert (await running).usage.completion_tokens == 10
        assert (await worker.delete("/drain", headers=JSON)).json()["ready"]
        while not any(state.ready for state in stack.workers()):
            await stack.gateway_service._workers.wait_for_change()
        assert (await stack.gateway.Generate(generate())).usage.completion_tokens == 10


async def test_no_text_of_a_request_comes_out(tier: TokenizerTier) -> None:
    gate = Gate()
    async with AsyncExitStack() as around:
        stack = await around.enter_async_context(gated_stack(tier, gate, worker=ADMIN, gateway=ADMIN))
        clients = [
            await around.enter_async_context(admin_of(server)) for server in (stack.worker_server, stack.gateway_server)
        ]
        running = [asyncio.ensure_future(stack.gateway.Chat(chat(message(MARKER)))) for _ in range(3)]
        await reached(gate)
        told = ""
        for client in clients:
            for method, path in ROUTES:
                if method == "GET":
                    told += (await client.get(path)).text
        assert MARKER not in told
        assert '"gateway.pipeline:' in told  # the requests were there to be seen
        assert '"name": "generation"' in told
        gate.open()
        await asyncio.gather(*running)


async def test_the_command_does_all_of_it(tier: TokenizerTier, monkeypatch: pytest.MonkeyPatch) -> None:
    async with operated_stack(tier) as (stack, _, _):
        assert stack.worker_server.admin_port is not None
        port = stack.worker_server.admin_port.port
        where = ("admin", "--port", str(port))
        code, output, errors = await command(*where, "drain")
        assert (code, json.loads(output)["drained"], errors) == (0, True, "")
        assert not stack.worker_server.health.is_ready
        monkeypatch.setitem(os.environ, "TOKENMILL_ADMIN_PORT", str(port))
        code, output, _ = await command("admin", "undrain")
        assert (code, json.loads(output)["ready"]) == (0, True)
        for action, key in (("state", "drained"), ("models", "models"), ("settings", "host"), ("loglevel", "level")):
            assert key in json.loads((await command("admin", action))[1])
        for action in ("threads", "tasks"):
            assert json.loads((await command("admin", action))[1])["count"] > 0
        one = ("--logger", "tokenmill.worker")
        assert json.loads((await command("admin", "loglevel", "debug", *one))[1])["loggers"] == {
            "tokenmill.worker": "debug"
        }
        assert json.loads((await command("admin", "loglevel", "default", *one))[1])["loggers"] == {}


async def test_the_command_says_what_is_wrong(tier: TokenizerTier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENMILL_ADMIN_PORT", raising=False)
    async with operated_stack(tier) as (stack, _, _):
        assert stack.worker_server.admin_port is not None
        where = ("admin", "--port", str(stack.worker_server.admin_port.port))
        for arguments, code, words in (
            ((*where, "loglevel", "loud"), WRONG_USAGE, "level: must be one of debug"),
            ((*where, "loglevel", "debug", "--logger", "x"), WRONG_USAGE, "logger: must be one of"),
            (("admin", "--port", "1", "drain"), UNAVAILABLE, "nobody answers at 127.0.0.1:1"),
            (("admin", "--port", "0", "drain"), WRONG_USAGE, "from 1 to 65535"),
            (("admin", "drain"), WRONG_USAGE, "--port N is required"),
            (("admin", "--port", str(stack.worker_server.port), "models"), UNAVAILABLE, "nobody answers"),
        ):
            answered, output, errors = await command(*arguments)
            assert (answered, output, words in errors) == (code, "", True), errors
