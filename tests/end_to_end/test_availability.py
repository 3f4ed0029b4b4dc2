"""What callers hear from services that are full, loading or draining."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_engine import FakeEngine
from model_worker.engines.fake_faults import Gate
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.health import NOT_SERVING, SERVING
from tests.end_to_end.heard import refusal
from tests.end_to_end.requests import chat, generate, generate_tokens
from tests.end_to_end.stack import NAME, address, gated_stack, held, open_channel, reached, readiness, running_stack
from tests.end_to_end.worker_calls import Request, ask, start
from tests.serving import listening, ready
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, tokenizer_pb2, tokenizer_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier, readiness

pytestmark = pytest.mark.asyncio(loop_scope="session")
CODE = grpc.StatusCode
PROMPT = [5, 6, 7]


class TestFull:
    async def test_a_full_gateway_refuses_at_once_with_a_retry_hint(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate, gateway={"max_inflight": 1, "max_queue": 1}) as stack:
            calls = [stack.gateway.Generate(generate_tokens(PROMPT)) for _ in range(2)]
            await stack.gateway_server.calls.are(2)
            await reached(gate)
            heard = await refusal(stack.gateway.StreamGenerate(generate_tokens(PROMPT)))
            assert (heard.code, heard.reason) == (CODE.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert heard.retry_after_seconds
            gate.open()
            assert [(await call).usage.completion_tokens for call in calls] == [10, 10]

    async def test_a_full_worker_refuses_gateways_and_others_with_a_retry_hint(self, tier: TokenizerTier) -> None:
        gate = Gate()
        limits = {"worker": {"max_num_seqs": 1, "max_queued_rows": 2}, "gateway": {"max_inflight_rows": 4}}
        async with gated_stack(tier, gate, **limits) as stack:
            calls = [stack.gateway.Generate(generate_tokens(PROMPT)) for _ in range(3)]
            await stack.worker_server.calls.are(3)
            await reached(gate)
            before = (await stack.load()).step
            for call in (stack.gateway.StreamGenerate(generate_tokens(PROMPT)), ask(stack, start(stack, [PROMPT]))):
                heard = await refusal(call)
                assert (heard.code, heard.reason) == (CODE.RESOURCE_EXHAUSTED, "QUEUE_FULL")
                assert heard.retry_after_seconds
            assert (await stack.load()).step == before
            gate.open()
            assert [(await call).usage.completion_tokens for call in calls] == [10, 10, 10]

    async def test_a_request_with_more_rows_than_fit_is_taken_or_refused_as_a_whole(self, tier: TokenizerTier) -> None:
        async with running_stack(tier, worker={"max_num_seqs": 2, "max_queued_rows": 2}) as stack:
            assert len((await stack.gateway.Generate(generate_tokens(PROMPT, n=4))).outputs) == 4
            before = (await stack.idle()).step
            heard = await refusal(stack.gateway.Generate(generate_tokens(PROMPT, n=5)))
            assert (heard.code, heard.reason, heard.field) == (CODE.INVALID_ARGUMENT, "CAPACITY_EXCEEDED", "n")
            assert "at most 4" in heard.message, "the caller learns what would be taken, and not to try the same again"
            heard = await refusal(ask(stack, start(stack, [PROMPT] * 5)))
            assert (heard.code, heard.field) == (CODE.INVALID_ARGUMENT, "start.tokens.rows")
            assert (await stack.idle()).step == before

    async def test_a_full_tokenizer_service_refuses_with_a_retry_hint(self, tier: TokenizerTier) -> None:
        settings = TokenizerSettings(
            model=(f"{NAME}={tier.folder}",), port=0, drain_seconds=0, threads=1, max_queue=1, template_seconds=20.0
        )
        service = TokenizerService(settings)
        async with ready(service, settings) as server, open_channel(server) as channel:
            stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
            request = tokenizer_pb2.EncodeRequest(prompts=gateway_pb2.TextPrompts(texts=["a"]))
            async with held(service):
                waiting = stub.Encode(request)
                await server.calls.are(1)
                heard = await refusal(stub.Encode(request))
                assert (heard.code, heard.reason) == (CODE.RESOURCE_EXHAUSTED, "QUEUE_FULL")
                assert heard.retry_after_seconds
            assert list((await waiting).token_counts) == [1]


class TestLoading:
    async def test_a_loading_worker_says_who_it_is_and_takes_nothing(self, tier: TokenizerTier) -> None:
        may_load = threading.Event()

        def load(settings: Any, progress: Any) -> FakeEngine:
            may_load.wait()
            return FakeEngine(tier.model())

        settings = WorkerSettings(model=tier.folder, served_model_name=NAME, port=0, drain_seconds=0)
        async with listening(WorkerService(settings, load=load), settings) as server, open_channel(server) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            described = await stub.GetWorker(worker_pb2.GetWorkerRequest())
            assert (described.model, described.api_revision) == (NAME, 1)
            assert described.instance_id
            assert not described.vocabulary_fingerprint
            for call in (stub.Generate(messages_of(worker_pb2.Start())), stub.WatchLoad(worker_pb2.WatchLoadRequest())):
                heard = await refusal(call)
                assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "LOADING")
                assert heard.retry_after_seconds
            assert await readiness(server) == NOT_SERVING
            may_load.set()
            await server.ready.wait()
            assert await readiness(server) == SERVING
            described = await stub.GetWorker(worker_pb2.GetWorkerRequest())
            assert described.context_length == tier.model().context_length
            assert described.vocabulary_fingerprint

    async def test_a_loading_tokenizer_service_takes_nothing(
        self, tier: TokenizerTier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_load = threading.Event()
        monkeypatch.setattr("tokenizer_service.server.load_tokenizer", lambda folder: may_load.wait())
        settings = TokenizerSettings(model=(str(tier.folder),), port=0, drain_seconds=0, threads=1)
        async with listening(TokenizerService(settings), settings) as server, open_channel(server) as channel:
            stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
            for call in (
                stub.Encode(tokenizer_pb2.EncodeRequest()),
                stub.Decode(tokenizer_pb2.DecodeRequest()),
                stub.GetTokenizer(tokenizer_pb2.GetTokenizerRequest()),
            ):
                heard = await refusal(call)
                assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "LOADING")
            assert await readiness(server) == NOT_SERVING
            server.stop()
            await server.calls.are(0)
            may_load.set()

    async def test_a_gateway_without_a_worker_takes_nothing_and_serves_as_soon_as_there_is_one(
        self, tier: TokenizerTier
    ) -> None:
        may_load = threading.Event()

        def load(settings: Any, progress: Any) -> FakeEngine:
            may_load.wait()
            return FakeEngine(tier.model())

        settings = WorkerSettings(model=tier.folder, served_model_name=NAME, port=0, drain_seconds=0)
        async with listening(WorkerService(settings, load=load), settings) as worker:
            gateway_settings = GatewaySettings(
                tokenizer=(address(tier.server),), worker=(address(worker),), port=0, drain_seconds=0
            )
            async with (
                listening(GatewayService(gateway_settings), gateway_settings) as server,
                open_channel(server) as channel,
            ):
                stub = gateway_pb2_grpc.InferenceServiceStub(channel)
                for call in (stub.Generate(generate("a")), stub.StreamChat(chat())):
                    heard = await refusal(call)
                    assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "NO_WORKER")
                    assert heard.retry_after_seconds
                assert not (await stub.ListModels(gateway_pb2.ListModelsRequest())).models
                assert await readiness(server) == NOT_SERVING
                may_load.set()
                await server.ready.wait()
                assert (await stub.Generate(generate("a"))).usage.completion_tokens == 10


async def messages_of(begin: worker_pb2.Start) -> AsyncIterator[Request]:
    yield Request(start=begin)


class TestDraining:
    async def test_a_gateway_that_drains_refuses_what_is_new_and_finishes_what_runs(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate) as stack:
            running = stack.gateway.Generate(generate_tokens(PROMPT))
            await reached(gate)
            stack.gateway_service.stop_accepting()
            heard = await refusal(stack.gateway.StreamGenerate(generate_tokens(PROMPT)))
            assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "DRAINING")
            assert heard.retry_after_seconds
            gate.open()
            assert (await running).usage.completion_tokens == 10

    async def test_a_worker_that_drains_refuses_what_is_new_and_finishes_what_runs(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate) as stack:
            running = stack.gateway.Generate(generate_tokens(PROMPT))
            await reached(gate)
            stack.worker_service.stop_accepting()
            for call in (stack.gateway.StreamGenerate(generate_tokens(PROMPT)), ask(stack, start(stack, [PROMPT]))):
                heard = await refusal(call)
                assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "DRAINING")
                assert heard.retry_after_seconds
            gate.open()
            assert (await running).usage.completion_tokens == 10
