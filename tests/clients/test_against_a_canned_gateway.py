from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.clients.canned_gateway import TEXT, CannedInference, serving
from tests.clients.programs import BUF_CURL, json_documents, run
from tokenmill.v1 import gateway_pb2, generation_pb2

NOBODY_LISTENS_HERE = "127.0.0.1:1"


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[str, CannedInference]]:
    servicer = CannedInference()
    async with serving(servicer) as address:
        yield address, servicer


async def test_a_client_prints_every_delta_and_cancels_its_second_call(
    client: tuple[str, ...], gateway: tuple[str, CannedInference]
) -> None:
    address, servicer = gateway
    ended = await run(*client, address, "Where is the Louvre?")
    assert (ended.err, ended.code) == ("", 0)
    answer, cancelled = ended.out.strip().rsplit("\n", 1)
    assert answer == f"{TEXT}\nfinished: FINISH_REASON_END_OF_SEQUENCE, 12 tokens"
    assert int(cancelled.removeprefix("cancelled after ").removesuffix(" deltas")) >= 3
    await servicer.cancelled.wait()


async def test_what_a_client_sends_arrives_as_it_was_meant(
    client: tuple[str, ...], gateway: tuple[str, CannedInference]
) -> None:
    address, servicer = gateway
    await run(*client, address, "Where is the Louvre?")
    whole, endless = servicer.requests
    assert whole == gateway_pb2.ChatRequest(
        messages=[gateway_pb2.ChatMessage(role="user", content="Where is the Louvre?")],
        sampling=generation_pb2.SamplingParams(temperature=0),  # given, and not the same as left out
        stopping=generation_pb2.StoppingCriteria(max_new_tokens=64),
    )
    assert endless.stopping.ignore_eos


async def test_a_gateway_that_is_not_there_is_one_line(client: tuple[str, ...]) -> None:
    ended = await run(*client, NOBODY_LISTENS_HERE)
    assert ended.code == 1
    assert len(ended.err.strip().splitlines()) == 1
    assert ended.err.startswith("chat: ")


async def test_buf_curl_streams_a_chat_by_reflection_alone(gateway: tuple[str, CannedInference]) -> None:
    address, _ = gateway
    request = '{"messages": [{"role": "user", "content": "Hello?"}], "sampling": {"temperature": 0}}'
    ended = await run(*BUF_CURL, "--data", request, f"http://{address}/tokenmill.v1.InferenceService/StreamChat")
    events = json_documents(ended.out)
    assert "".join(event["delta"]["text"] for event in events if "delta" in event) == TEXT
    assert events[-1]["finished"]["finish"]["reason"] == "FINISH_REASON_END_OF_SEQUENCE"
