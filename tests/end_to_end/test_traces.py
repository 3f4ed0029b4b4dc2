"""One trace of a request across all three services, sent to a real collector; what is passed on where nobody traces."""

from __future__ import annotations

import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from model_worker.engine import RowFailure
from model_worker.engines.fake_faults import fail_rows
from rpc.metrics import text_of
from tests.end_to_end.collector import CollectedSpan, Collector, collector
from tests.end_to_end.heard import hear
from tests.end_to_end.http import HTTP, http_client, posted
from tests.end_to_end.http import chat as http_chat
from tests.end_to_end.marker import MARKER, failed, logs, speak
from tests.end_to_end.requests import Sampling, Stopping, chat, generate, message
from tests.end_to_end.speaker import speaker
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, running_stack, tokenizer_tier
from tests.end_to_end.test_failover import Streams, fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")
TRACE_ID, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLERS_SPAN}-01"
GATEWAY, TOKENIZER, WORKER = "tokenmill-gateway", "tokenmill-tokenizer", "tokenmill-worker"
CHAT = "tokenmill.v1.InferenceService/StreamChat"
ENCODE = "tokenmill.v1.TokenizerService/Encode"
GENERATE = "tokenmill.v1.WorkerService/GenerateMany"
SERVER, CLIENT = 2, 3  # SPAN_KIND_…


@asynccontextmanager
async def traced_stack(folder: Path, collected: Collector, *faults: object, **given: object) -> AsyncIterator[Stack]:
    """All three services trace; the body's spans are there when it is over."""
    option = {"otlp_traces_endpoint": collected.endpoint}
    gateway = {**option, **HTTP, **given.pop("gateway", {})}
    async with (
        tokenizer_tier(folder, **option) as tier,
        running_stack(tier, *faults, worker=option, gateway=gateway, **given) as stack,
    ):
        yield stack


async def test_one_trace_goes_through_all_three_services(tmp_path: Path) -> None:
    async with collector() as collected, traced_stack(tmp_path / "tiny", collected) as stack:
        request = chat(message("A list of colors"), sampling=Sampling(seed=1, top_p=0.9), n=2)
        await hear(stack.gateway.StreamChat(request, metadata=(("traceparent", TRACEPARENT),)))
    whole = collected.one(GATEWAY, CHAT)
    assert (whole.trace_id, whole.parent_id, whole.kind) == (TRACE_ID, CALLERS_SPAN, SERVER)
    assert collected.one(GATEWAY, "admission").parent_id == whole.span_id
    asked_to_encode, encoded = collected.one(GATEWAY, ENCODE), collected.one(TOKENIZER, ENCODE)
    asked_to_generate, generated = collected.one(GATEWAY, GENERATE), collected.one(WORKER, GENERATE)
    for asked in (asked_to_encode, asked_to_generate):
        assert (asked.parent_id, asked.kind) == (whole.span_id, CLIENT)
    assert (encoded.parent_id, encoded.kind) == (asked_to_encode.span_id, SERVER)
    assert (generated.parent_id, generated.kind) == (asked_to_generate.span_id, SERVER)
    for row in range(2):
        check_phases(collected, generated, row)
    assert len(collected.of_trace(TRACE_ID)) == 12
    assert not any(span.is_error for span in collected.spans)


def check_phases(collected: Collector, generated: CollectedSpan, row: int) -> None:
    """Queue, prefill and decode of a row follow each other, within the worker's call."""
    phases = [
        span
        for name in ("queue", "prefill", "decode")
        for span in collected.named(WORKER, name)
        if span.attributes["tokenmill.row"] == row
    ]
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    assert {span.parent_id for span in phases} == {generated.span_id}
    ends = [(span.began_ns, span.ended_ns) for span in phases]
    assert generated.began_ns <= ends[0][0]
    assert ends[0][1] == ends[1][0] <= ends[1][1] == ends[2][0] <= ends[2][1] <= generated.ended_ns


async def test_a_trace_tells_what_was_asked_in_the_words_for_generative_ai(tmp_path: Path) -> None:
    async with collector() as collected, traced_stack(tmp_path / "tiny", collected) as stack:
        sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, presence_penalty=0.25)
        options = {"sampling": sampling, "stopping": Stopping(max_new_tokens=6)}
        chatted = await stack.gateway.Chat(chat(message("colors"), **options))
        answer = await stack.gateway.Generate(generate("one", "two", n=2, **options))
    told = collected.one(GATEWAY, "tokenmill.v1.InferenceService/Chat").attributes
    expected = {
        "rpc.system.name": "grpc",
        "rpc.method": "tokenmill.v1.InferenceService/Chat",
        "rpc.response.status_code": "OK",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tokenmill",
        "gen_ai.request.model": NAME,
        "gen_ai.response.model": NAME,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.presence_penalty": 0.25,
        "gen_ai.request.max_tokens": 6,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": chatted.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": 6,
    }
    assert {name: told.get(name) for name in expected} == expected
    assert told["gen_ai.request.top_p"] == pytest.approx(0.9)
    assert 0 < told["gen_ai.response.time_to_first_chunk"] < 60
    told = collected.one(GATEWAY, "tokenmill.v1.InferenceService/Generate").attributes
    assert told["gen_ai.operation.name"] == "text_completion"
    assert (told["gen_ai.request.choice.count"], told["tokenmill.prompts"]) == (2, 2)
    assert told["gen_ai.response.finish_reasons"] == ["length"] * 4
    assert told["gen_ai.usage.input_tokens"] == answer.usage.prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == 24
    assert collected.named(TOKENIZER, ENCODE)[1].attributes["tokenmill.prompt_tokens"] == answer.usage.prompt_tokens


async def test_a_request_over_http_is_traced_too(tmp_path: Path) -> None:
    async with (
        collector() as collected,  # whose spans are complete once the stack has ended
        traced_stack(tmp_path / "tiny", collected) as stack,
        http_client(stack) as client,
    ):
        await posted(client, "/v1/chat/completions", http_chat(), headers={"traceparent": TRACEPARENT})
        await client.get("/health")  # nobody wants a trace of a probe
        assert (await client.get("/nothing/here")).status_code == 404
    whole = collected.one(GATEWAY, "POST /v1/chat/completions")
    assert (whole.trace_id, whole.parent_id) == (TRACE_ID, CALLERS_SPAN)
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.attributes["http.route"] == "/v1/chat/completions"
    assert whole.attributes["gen_ai.usage.output_tokens"] == 10
    assert collected.one(WORKER, GENERATE).trace_id == TRACE_ID
    lost = collected.one(GATEWAY, "GET unknown")
    assert lost.attributes["http.response.status_code"] == 404
    assert not lost.is_error, "a wrong path is the caller's mistake"


async def test_a_failure_says_where_and_why(tmp_path: Path) -> None:
    failure = fail_rows(RowFailure("LOGITS_NOT_FINITE", "the logits are not finite"), lambda step, _: step == 6)
    async with collector() as collected, traced_stack(tmp_path / "tiny", collected, failure) as stack:
        assert await failed(stack.gateway.StreamChat(chat(message("colors")))) is grpc.StatusCode.INTERNAL
        wrong = chat(message(role="nobody"))
        assert await failed(stack.gateway.StreamChat(wrong)) is grpc.StatusCode.INVALID_ARGUMENT
    broken, refused = collected.named(GATEWAY, CHAT)
    for span in (broken, collected.one(GATEWAY, GENERATE), collected.one(WORKER, GENERATE)):
        assert (span.is_error, span.attributes["error.type"]) == (True, "LOGITS_NOT_FINITE")
    assert (refused.is_error, refused.attributes["error.type"]) == (False, "INVALID_FIELD")
    assert "gen_ai.request.model" not in refused.attributes


async def test_every_attempt_at_a_worker_is_a_part_of_its_own(tier: TokenizerTier) -> None:
    async with collector() as collected, fleet(tier, otlp_traces_endpoint=collected.endpoint) as two:
        streams = Streams(two.gateway)
        await streams.begin()
        two.workers[0].signal(signal.SIGKILL)
        await streams.check(tier)
    attempts = collected.named(GATEWAY, GENERATE)
    lost = [span for span in attempts if span.is_error]
    taken_over = [span for span in attempts if span.attributes["tokenmill.replayed_tokens"]]
    assert len(lost) == len(taken_over) > 0
    assert {span.attributes["error.type"] for span in lost} <= {"WORKER_LOST", "PEER_UNAVAILABLE"}
    assert {span.parent_id for span in lost} == {span.parent_id for span in taken_over}
    whole = collected.named(GATEWAY, "tokenmill.v1.InferenceService/StreamGenerate")
    assert len(whole) == len(streams.calls)
    assert not any(span.is_error for span in whole), "callers have noticed nothing"


async def test_who_asks_for_no_record_gets_none_and_is_passed_on_all_the_same(tmp_path: Path) -> None:
    async with collector() as collected:
        with logs() as written:
            async with traced_stack(tmp_path / "tiny", collected) as stack:
                unsampled = (("traceparent", f"00-{TRACE_ID}-{CALLERS_SPAN}-00"),)
                await hear(stack.gateway.StreamChat(chat(message("colors")), metadata=unsampled))
    assert collected.of_trace(TRACE_ID) == []
    assert written.getvalue().count(f'"trace_id": "{TRACE_ID}"') >= 3


async def test_what_nobody_traces_is_passed_on_and_logged(stack: Stack) -> None:
    with logs() as written:
        metadata = (("traceparent", TRACEPARENT), ("x-request-id", "mine"))
        await hear(stack.gateway.StreamChat(chat(message("colors")), metadata=metadata))
        await stack.idle()
    lines = [line for line in written.getvalue().splitlines() if '"message": "rpc"' in line]
    of_request = [line for line in lines if '"request_id": "mine"' in line]
    assert {method for line in of_request for method in ("StreamChat", "Encode", "GenerateMany") if method in line} == {
        "StreamChat",
        "Encode",
        "GenerateMany",
    }
    assert all(f'"trace_id": "{TRACE_ID}"' in line for line in of_request)


async def test_no_text_is_in_any_log_metric_or_span(tmp_path: Path) -> None:
    async with collector() as collected:
        with logs() as written:
            async with tokenizer_tier(tmp_path / "words") as words:
                script = words.tokenizer.encode(f"{MARKER}, ").ids
                model = speaker(words, *[script] * 425)
            async with traced_stack(tmp_path / "tiny", collected, model=model) as stack, http_client(stack) as client:
                await speak(stack)
                await posted(client, "/v1/chat/completions", http_chat(MARKER, stop=[f"no {MARKER}"], user=MARKER))
                headers = {"tracestate": f"vendor={MARKER.replace(' ', '_')}", "baggage": f"text={MARKER}"}
                assert (await client.get(f"/{MARKER}", headers=headers)).status_code == 404
                assert await failed(stack.gateway.Generate(generate(MARKER, model=MARKER))) is grpc.StatusCode.NOT_FOUND
                assert await failed(stack.gateway.Chat(chat(message(MARKER, role=MARKER)))) is not grpc.StatusCode.OK
                servers = (stack.gateway_server, stack.worker_server, stack.tier.server)
                metrics = "".join(text_of(server.registry).decode() for server in servers)
    spans = b"".join(collected.raw)
    assert len(collected.spans) > 20
    assert "tokenmill_requests_total" in metrics
    assert '"message": "rpc"' in written.getvalue()
    for word in MARKER.split():
        assert word not in written.getvalue()
        assert word not in metrics
        assert word.encode() not in spans


async def test_a_collector_that_is_not_there_holds_nobody_up(tier: TokenizerTier) -> None:
    nobody = {"otlp_traces_endpoint": "http://127.0.0.1:9"}
    began = time.monotonic()
    async with running_stack(tier, gateway=nobody) as stack:
        await hear(stack.gateway.StreamChat(chat(message("colors"))))
        began = time.monotonic()
    assert time.monotonic() - began < 10, "the library alone would wait for half a minute"
