"""The services as they are started and stopped: processes, signals, exit codes, one line for what is wrong."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from model_worker.loading.load_errors import LoadError
from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.health import NOT_SERVING, READINESS, SERVING
from rpc.start_error import StartError
from tests.end_to_end.heard import Heard, refusal
from tests.end_to_end.requests import FinishReason, Stopping, chat, message
from tests.end_to_end.stack import NAME, address
from tests.processes import GATEWAY, TOKENIZER, WORKER, process, ready_process, scripted
from tests.serving import serving
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import TokenizerTier
    from tests.processes import Process

pytestmark = pytest.mark.asyncio(loop_scope="session")
MARKER = "midnight dreary"
TOKENS = 100


class Streams:
    """Eight chats at once, each known to have begun."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        request = chat(message(MARKER), stopping=Stopping(max_new_tokens=TOKENS))
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        self.calls: list[Any] = [stub.StreamChat(request) for _ in range(8)]
        self.heard = [Heard() for _ in self.calls]

    async def begin(self) -> None:
        for call, heard in zip(self.calls, self.heard, strict=True):
            while not heard.delta_sizes:
                heard.take(await call.read())

    async def finish(self) -> None:
        for call, heard in zip(self.calls, self.heard, strict=True):
            while (response := await call.read()) is not grpc.aio.EOF:
                heard.take(response)
            assert len(heard.token_ids[0]) == TOKENS
            assert MARKER in heard.texts[0]
            assert heard.ends[0].finish.reason == FinishReason.FINISH_REASON_MAX_NEW_TOKENS


@dataclass
class Services:
    """A worker and a gateway in processes of their own."""

    worker: Process
    worker_address: str
    gateway: Process
    gateway_address: str

    def check_logs(self) -> None:
        for line in (*self.worker.lines, *self.gateway.lines):
            assert line.startswith("{")
            assert MARKER not in line
            assert "Traceback" not in line


@pytest_asyncio.fixture(loop_scope="session")
async def services(tier: TokenizerTier) -> AsyncIterator[Services]:
    script = scripted(tier.folder, ids=tier.tokenizer.encode(f"{MARKER}, ").ids, seconds_per_step=0.01)
    worker_flags = [*script, "--served-model-name", NAME, "--log-level", "debug"]
    async with ready_process(WORKER, *worker_flags) as (worker, worker_address):
        flags = ["--tokenizer", address(tier.server), "--worker", worker_address, "--log-level", "debug"]
        async with ready_process(GATEWAY, *flags) as (gateway, gateway_address):
            yield Services(worker, worker_address, gateway, gateway_address)


@pytest.mark.parametrize("tier_name", ["gateway", "worker"])
async def test_sigterm_turns_readiness_off_first_and_eight_streams_finish(services: Services, tier_name: str) -> None:
    target: Process = getattr(services, tier_name)
    async with (
        grpc.aio.insecure_channel(services.gateway_address) as channel,
        grpc.aio.insecure_channel(getattr(services, f"{tier_name}_address")) as target_channel,
    ):
        watch = health_pb2_grpc.HealthStub(target_channel).Watch(health_pb2.HealthCheckRequest(service=READINESS))
        assert (await watch.read()).status == SERVING
        streams = Streams(channel)
        await streams.begin()
        target.signal(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        assert not any(call.done() for call in streams.calls)
        await streams.finish()
        assert await target.exit_code() == 0
    services.check_logs()
    (stopped,) = [line for line in target.lines if '"stopped"' in line]
    assert '"ended_calls": 0' in stopped


async def test_a_worker_whose_engine_breaks_ends_streams_as_unavailable_and_itself_with_1(tier: TokenizerTier) -> None:
    script = scripted(tier.folder, seconds_per_step=0.01, faults=[{"at_step": 20, "what": "break"}])
    async with ready_process(WORKER, *script, "--served-model-name", NAME) as (worker, worker_address):
        gateway_flags = ["--tokenizer", address(tier.server), "--worker", worker_address, "--failover-seconds", "0"]
        async with (
            ready_process(GATEWAY, *gateway_flags) as (gateway, gateway_address),
            grpc.aio.insecure_channel(gateway_address) as channel,
        ):
            streams = Streams(channel)
            for call in streams.calls:
                heard = await refusal(call)
                assert (heard.code, heard.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_BROKEN")
            assert await worker.exit_code() == 1
            gateway.signal(signal.SIGTERM)
            assert await gateway.exit_code() == 0
            assert not [line for line in (*worker.lines, *gateway.lines) if MARKER in line or "Traceback" in line]


UNREACHED = ["--tokenizer", "127.0.0.1:1", "--worker", "127.0.0.1:1"]
FAKE = ["--engine", "fake"]
# Arguments, exit code, the line that is written. FOLDER, EMPTY and PORT are filled in.
FAILURES: dict[str, tuple[str, list[str], int, str]] = {
    "gateway, unknown option": (GATEWAY, [*UNREACHED, "--colour", "red"], 2, "unrecognized arguments: --colour red"),
    "gateway, missing option": (GATEWAY, ["--worker", "127.0.0.1:1"], 2, "--tokenizer is required"),
    "gateway, taken port": (GATEWAY, [*UNREACHED, "--port", "PORT"], 1, "cannot listen on 127.0.0.1:PORT"),
    "tokenizer, unknown option": (TOKENIZER, ["--model", "FOLDER", "--colour", "red"], 2, "--colour red"),
    "tokenizer, taken port": (TOKENIZER, ["--model", "FOLDER", "--port", "PORT"], 1, "cannot listen on"),
    "tokenizer, no folder": (TOKENIZER, ["--model", "EMPTY/none", "--port", "0"], 1, "EMPTY/none: no such folder"),
    "tokenizer, empty folder": (TOKENIZER, ["--model", "EMPTY", "--port", "0"], 1, "EMPTY/tokenizer.json: missing"),
    "worker, unknown option": (WORKER, ["--model", "FOLDER", "--colour", "red"], 2, "--colour red"),
    "worker, unknown engine": (WORKER, ["--model", "FOLDER", "--engine", "steam"], 2, "--engine: must be one of"),
    "worker, taken port": (WORKER, [*FAKE, "--model", "FOLDER", "--port", "PORT"], 1, "cannot listen on"),
    "worker, no folder": (WORKER, [*FAKE, "--model", "EMPTY/none", "--port", "0"], 1, "EMPTY/none"),
    "worker, empty folder": (WORKER, [*FAKE, "--model", "EMPTY", "--port", "0"], 1, "EMPTY/tokenizer.json"),
    "worker, limits that contradict": (
        WORKER,
        [*FAKE, "--model", "FOLDER", "--port", "0", "--max-num-seqs", "64", "--max-num-batched-tokens", "8"],
        1,
        "max_num_batched_tokens must not be below max_num_seqs",
    ),
}


async def test_a_service_that_cannot_start_says_why_in_one_line(tier: TokenizerTier, tmp_path: Any) -> None:
    port = str(tier.server.port)
    meant = {"FOLDER": str(tier.folder), "EMPTY": str(tmp_path), "PORT": port}

    def filled(text: str) -> str:
        for name, value in meant.items():
            text = text.replace(name, value)
        return text

    async def fails(module: str, flags: list[str], code: int, words: str) -> None:
        async with process(module, *map(filled, flags)) as started:
            assert await started.exit_code() == code, started.lines
            written = [line for line in started.lines if not line.startswith("{")]
            assert len(written) == 1, started.lines
            assert written[0].startswith(f"{module}: ")
            assert filled(words) in written[0]

    await asyncio.gather(*(fails(*failure) for failure in FAILURES.values()))


async def test_a_worker_whose_model_cannot_be_loaded_says_why(tier: TokenizerTier) -> None:
    def load(settings: Any, progress: Any) -> Any:
        raise LoadError("model.safetensors: 3 tensors are missing")

    settings = WorkerSettings(model=tier.folder, port=0, drain_seconds=0)
    with pytest.raises(StartError, match="3 tensors are missing"):
        async with serving(WorkerService(settings, load=load), settings):
            raise AssertionError("it served")
