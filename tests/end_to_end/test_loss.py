"""What callers hear from a gateway that has lost what is behind it, or finds that it does not fit together."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from gateway.text.decoder_chain import UnsupportedDecoderError
from model_worker.engines.fake_engine import FakeEngine
from model_worker.engines.fake_faults import Gate, raise_at
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.health import NOT_SERVING, READINESS, SERVING
from rpc.lifecycle import EXIT_FAILED
from rpc.start_error import StartError
from tests.end_to_end.heard import refusal
from tests.end_to_end.requests import Stopping, generate, generate_tokens
from tests.end_to_end.stack import NAME, address, gated_stack, open_channel, readiness, running_stack
from tests.end_to_end.worker_calls import ask, start
from tests.serving import listening, ready
from tests.tokenizers_for_tests import unigram_tokenizer
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.stack import TokenizerTier, readiness

pytestmark = pytest.mark.asyncio(loop_scope="session")
CODE = grpc.StatusCode
PROMPT = [5, 6, 7]
LONG = Stopping(max_new_tokens=4000)


class TestLoss:
    async def test_a_worker_that_is_gone_is_unavailable_until_another_comes(self, tier: TokenizerTier) -> None:
        async with running_stack(tier) as stack:
            port = stack.worker_server.port
            stack.worker_server.stop()
            await stack.worker_server.life
            heard = await refusal(stack.gateway.Generate(generate_tokens(PROMPT)))
            assert heard.code is CODE.UNAVAILABLE
            assert heard.retry_after_seconds
            assert "127.0.0.1" not in heard.message
            assert stack.inflight == 0
            settings = WorkerSettings(model=tier.folder, served_model_name=NAME, port=port, drain_seconds=0)
            service = WorkerService(settings, load=lambda settings, progress: FakeEngine(tier.model()))
            async with ready(service, settings):
                await a_model(stack.gateway_service)
                assert (await stack.gateway.Generate(generate_tokens(PROMPT))).usage.completion_tokens == 10

    async def test_a_tokenizer_service_that_cannot_be_reached_is_unavailable(self, tier: TokenizerTier) -> None:
        async with running_stack(tier) as stack:
            settings = GatewaySettings(
                tokenizer=(nobody(),),
                worker=(address(stack.worker_server),),
                port=0,
                drain_seconds=0,
                failover_seconds=0,
            )
            gateway = GatewayService(settings)
            async with listening(gateway, settings) as server, open_channel(server) as channel:
                await a_model(gateway)
                heard = await refusal(gateway_pb2_grpc.InferenceServiceStub(channel).Generate(generate("a")))
                assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "NO_TOKENIZER")
                assert heard.message == "no tokenizer service is ready"
                assert await readiness(server) == NOT_SERVING
                assert gateway._admission.inflight == 0

    async def test_a_broken_engine_turns_readiness_off_and_ends_streams_as_unavailable(
        self, tier: TokenizerTier
    ) -> None:
        gate = Gate()
        # Step 1 is the warm-up's.
        async with gated_stack(tier, gate, raise_at(4, RuntimeError("cuda says: a secret"))) as stack:
            stub = health_pb2_grpc.HealthStub(stack.worker_channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=READINESS))
            assert (await watch.read()).status == SERVING
            calls = [stack.gateway.StreamGenerate(generate_tokens(PROMPT, stopping=LONG)) for _ in range(2)]
            single = ask(stack, start(stack, [PROMPT]))
            await stack.worker_server.calls.are(3)
            gate.open()
            for call in (*calls, single):
                heard = await refusal(call)
                assert (heard.code, heard.reason) == (CODE.UNAVAILABLE, "ENGINE_BROKEN")
                assert heard.retry_after_seconds
                assert "secret" not in heard.message
            assert (await watch.read()).status == NOT_SERVING
            assert await stack.worker_server.life == EXIT_FAILED
            assert stack.inflight == 0

    async def test_an_engine_that_breaks_in_the_warm_up_is_never_ready(self, tier: TokenizerTier) -> None:
        with pytest.raises(StartError, match="no token could be generated: the engine of this worker failed"):
            async with running_stack(tier, raise_at(1, RuntimeError("a secret"))):
                raise AssertionError("ready")


async def a_model(gateway: GatewayService) -> None:
    """Return once a worker is ready."""
    while not gateway._workers.ready_models():
        await gateway._workers.wait_for_change()


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_a_tokenizer_that_cannot_be_streamed_is_a_start_error_that_says_so(
    tier: TokenizerTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UnsupportedDecoderError("the tokenizer's decoder step CTC cannot be followed token by token")

    monkeypatch.setattr("gateway.tokenizer_client.TokenizerArtefact", refuse)
    with pytest.raises(StartError, match=r"the tokenizer of model 'tiny' cannot be used for streaming: .* step CTC"):
        async with running_stack(tier):
            raise AssertionError("ready")


async def test_another_vocabulary_at_the_worker_is_a_failed_precondition(tier: TokenizerTier, tmp_path: Path) -> None:
    unigram_tokenizer().save(str(tmp_path / "tokenizer.json"))
    settings = WorkerSettings(model=tmp_path, served_model_name=NAME, port=0, drain_seconds=0)
    service = WorkerService(settings, load=lambda settings, progress: FakeEngine(tier.model()))
    async with ready(service, settings) as worker:
        gateway_settings = GatewaySettings(
            tokenizer=(address(tier.server),), worker=(address(worker),), port=0, drain_seconds=0
        )
        gateway = GatewayService(gateway_settings)
        async with listening(gateway, gateway_settings) as server, open_channel(server) as channel:
            await a_model(gateway)
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            for request in (generate("a text"), generate_tokens(PROMPT)):
                heard = await refusal(stub.Generate(request))
                assert (heard.code, heard.reason) == (CODE.FAILED_PRECONDITION, "VOCABULARY_MISMATCH")
            assert await readiness(server) == NOT_SERVING
            assert gateway._admission.inflight == 0
