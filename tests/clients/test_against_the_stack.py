"""The clients and buf against the three services on the demo model: the contract's names, tried from outside."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from cli.local_stack import LocalStack, Ports, StackOptions
from cli.progress import StartProgress
from tests.clients.programs import BUF_CURL, CLIENTS, HTTP_CLIENTS, json_documents, run
from tokenmill.v1 import worker_pb2, worker_pb2_grpc

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

NAME = "demo"
QUESTION = "What is the capital of France?"
METHODS = {"Chat", "CountTokens", "Generate", "GetModel", "ListModels", "StreamChat", "StreamGenerate"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(demo_model: Path) -> AsyncIterator[LocalStack]:
    exact = ("--quantization", "none", "--dtype", "float32")
    options = StackOptions(demo_model, NAME, Ports(0, 0, 0, 0), worker_arguments=exact)
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


async def test_the_vercel_ai_sdk_streams_stops_weighs_and_aborts(stack: LocalStack) -> None:
    ended = await run(*HTTP_CLIENTS["ai-sdk"], f"http://{stack.http_address}", NAME, QUESTION)
    assert (ended.err, ended.code) == ("", 0)
    text, usage, stopped, logprobs, aborted = ended.out.strip().rsplit("\n", 4)
    assert text == await answer_of_buf(stack.addresses["gateway"])
    assert re.fullmatch(r"usage: \d+ tokens, stop", usage)
    assert stopped == f"stopped: {json.dumps(text.split('is')[0])}, stop"
    assert (logprobs, aborted) == ("logprobs: 4", "aborted after 3 texts")


async def test_curl_streams_stops_weighs_and_leaves(stack: LocalStack) -> None:
    ended = await run(*HTTP_CLIENTS["curl"], f"http://{stack.http_address}", QUESTION)
    assert (ended.err, ended.code) == ("", 0)
    assert '"completion_tokens":' in ended.out
    assert ended.out.count("[DONE]") == 3, "of four streams one was left"


async def test_nothing_is_computed_any_more_after_the_cancelled_calls(stack: LocalStack) -> None:
    async with grpc.aio.insecure_channel(stack.addresses["worker"]) as channel:
        worker = worker_pb2_grpc.WorkerServiceStub(channel)
        async for response in worker.WatchLoad(worker_pb2.WatchLoadRequest(), timeout=30):
            load = response.load
            if load.running == load.waiting == load.kv_tokens_used == 0:
                assert load.step > 0
                return
    pytest.fail("the worker went away")
