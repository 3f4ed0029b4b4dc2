"""The clients and buf against the three services on the demo model: the contract's names, tried from outside."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from cli.local_stack import LocalStack, StackOptions
from cli.progress import StartProgress
from tests.clients.programs import BUF_CURL, CLIENTS, json_documents, run
from tokenmill.v1 import worker_pb2, worker_pb2_grpc

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

QUESTION = "What is the capital of France?"
METHODS = {"Chat", "CountTokens", "Generate", "GetModel", "ListModels", "StreamChat", "StreamGenerate"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(demo_model: Path) -> AsyncIterator[LocalStack]:
    options = StackOptions(demo_model, "demo", worker_arguments=("--quantization", "none", "--dtype", "float32"))
    async with LocalStack(options, StartProgress(io.StringIO())) as running:
        yield running


async def answer_of_client(name: str, address: str) -> str:
    ended = await run(*CLIENTS[name], address, QUESTION)
    assert (ended.err, ended.code) == ("", 0)
    text, finished, cancelled = ended.out.strip().rsplit("\n", 2)
    assert finished.startswith("finished: FINISH_REASON_")
    assert cancelled.startswith("cancelled after ")
    return text


async def answer_of_buf(address: str) -> str:
    request = f"""{{
        "messages": [{{"role": "user", "content": "{QUESTION}"}}],
        "sampling": {{"temperature": 0}}, "stopping": {{"max_new_tokens": 64}}
    }}"""
    ended = await run(*BUF_CURL, "--data", request, f"http://{address}/tokenmill.v1.InferenceService/StreamChat")
    assert (ended.err, ended.code) == ("", 0)
    events = json_documents(ended.out)
    assert "started" in events[0]
    assert "finished" in events[-1]
    return "".join(event["delta"].get("text", "") for event in events if "delta" in event)


async def test_reflection_lists_the_services_and_their_methods(stack: LocalStack) -> None:
    address = stack.addresses["gateway"]
    services = (await run(*BUF_CURL, "--list-services", f"http://{address}")).out.split()
    assert "tokenmill.v1.InferenceService" in services
    assert "grpc.health.v1.Health" in services
    methods = (await run(*BUF_CURL, "--list-methods", f"http://{address}")).out.split()
    assert {f"tokenmill.v1.InferenceService/{name}" for name in METHODS} <= set(methods)


async def test_three_clients_get_the_same_greedy_text(stack: LocalStack) -> None:
    address = stack.addresses["gateway"]
    answers = {name: await answer_of_client(name, address) for name in CLIENTS}
    answers["buf"] = await answer_of_buf(address)
    assert set(answers.values()) == {answers["buf"]}
    assert "Paris" in answers["buf"]


async def test_nothing_is_computed_any_more_after_the_cancelled_calls(stack: LocalStack) -> None:
    async with grpc.aio.insecure_channel(stack.addresses["worker"]) as channel:
        worker = worker_pb2_grpc.WorkerServiceStub(channel)
        async for response in worker.WatchLoad(worker_pb2.WatchLoadRequest(), timeout=30):
            load = response.load
            if load.running == load.waiting == load.kv_tokens_used == 0:
                assert load.step > 0
                return
    pytest.fail("the worker went away")
