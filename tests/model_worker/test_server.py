"""What has to happen before a worker is ready, and what an operator reads where it cannot be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from model_worker.engine import OutOfMemory, RowFailure
from model_worker.engines.fake_engine import FakeEngine, FakeModel
from model_worker.engines.fake_faults import Fault, Gate, fail_rows, memory_for, raise_at
from model_worker.loading.load_errors import ModelFolderError
from model_worker.loading.load_progress import LoadProgress
from model_worker.sequence import RowParams
from model_worker.server import WorkerService
from model_worker.servicer import WorkerServicer
from model_worker.settings import WorkerSettings
from rpc.start_error import StartError
from tests.model_worker.generation_support import hear, ids_of
from tests.serving import listening, ready
from tests.tokenizers_for_tests import byte_level_tokenizer
from tokenmill.v1 import worker_pb2, worker_pb2_grpc

MODEL = FakeModel()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def settings_for(folder: Path, **given: object) -> WorkerSettings:
    return WorkerSettings(**({"model": folder, "port": 0, "drain_seconds": 0} | given))


async def start_error(folder: Path, *faults: Fault, model: FakeModel = MODEL, error: Exception | None = None) -> str:
    """The line with which a start fails."""

    def load(_settings: object, _progress: object) -> FakeEngine:
        if error is not None:
            raise error
        return FakeEngine(model, *faults)

    service = WorkerService(settings_for(folder), load=load)
    with pytest.raises(StartError) as caught:
        await service.start()
    assert service._servicer.generating is None, "nothing is served"
    await service.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (fail_rows(RowFailure("LOGITS_NOT_FINITE", "not a number"), lambda step, segment: True), "not a number"),
        (memory_for(0), "the model worker ran out of memory"),
        (raise_at(1, RuntimeError("device lost")), "the engine of this worker failed"),
    ],
    ids=["a row that fails", "no memory", "a broken engine"],
)
async def test_a_worker_that_generates_nothing_is_not_ready(folder: Path, fault: Fault, complaint: str) -> None:
    assert f"no token could be generated: {complaint}" in await start_error(folder, fault)


async def test_a_worker_whose_first_row_ends_without_a_token_is_not_ready(folder: Path) -> None:
    assert await start_error(folder, model=FakeModel(context_length=1)) == "no token could be generated"


async def test_a_model_that_cannot_be_loaded_is_one_line(folder: Path) -> None:
    assert await start_error(folder, error=ModelFolderError("no weights")) == "no weights"
    assert "--kv-cache-memory" in await start_error(folder, error=OutOfMemory("CUDA out of memory.\nTried to"))
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in await start_error(folder)


@pytest.mark.parametrize("enabled", [True, False])
async def test_prefix_caching_is_the_operators_choice(folder: Path, enabled: bool) -> None:
    service = WorkerService(
        settings_for(folder, enable_prefix_caching=enabled), load=lambda _settings, _progress: FakeEngine(MODEL)
    )
    await service.start()
    assert service._generation is not None
    cached = []
    for _ in range(2):
        heard = await hear(service._generation.submit([(ids_of(1, 2, 3), RowParams(max_new_tokens=2))]))
        cached.append(heard.ends[0].usage.cached_prompt_tokens)
    await service.close()
    assert cached == [0, 2 if enabled else 0]


async def test_limits_that_contradict_each_other_are_one_line(folder: Path) -> None:
    service = WorkerService(settings_for(folder, max_num_seqs=32, max_num_batched_tokens=4))
    with pytest.raises(StartError, match="max_num_batched_tokens must not be below max_num_seqs"):
        await service.start()


async def test_whoever_hears_ready_finds_the_description_complete(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, stages = Gate(), []
    plain = WorkerService._show

    def shown(self: WorkerService, progress: LoadProgress) -> None:
        plain(self, progress)
        stages.append((progress.stage, self._servicer.generating is not None))

    monkeypatch.setattr(WorkerService, "_show", shown)
    settings = settings_for(folder)
    service = WorkerService(settings, load=lambda _settings, _progress: FakeEngine(MODEL, gate))
    async with listening(service, settings) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        await asyncio.to_thread(gate.wait_until_reached)
        described = await stub.GetWorker(worker_pb2.GetWorkerRequest())
        assert (described.progress.stage, described.context_length) == ("warming up", 0)
        gate.open()
        await server.ready.wait()
        described = await stub.GetWorker(worker_pb2.GetWorkerRequest())
        assert (described.progress.stage, described.progress.fraction) == ("ready", 1.0)
        assert described.context_length == MODEL.context_length
    assert stages == [("warming up", False), ("ready", True)]


@pytest.mark.parametrize(("given", "named"), [({"worker_id": "left"}, "left"), ({"port": 50999}, ":50999")])
def test_a_worker_is_named_by_its_operator_or_its_port(folder: Path, given: dict[str, object], named: str) -> None:
    assert identity(settings_for(folder, **given)).worker_id.endswith(named)


def test_workers_on_ports_that_the_system_chooses_are_told_apart(folder: Path) -> None:
    settings = settings_for(folder)
    assert identity(settings).worker_id != identity(settings).worker_id


def identity(settings: WorkerSettings) -> worker_pb2.GetWorkerResponse:
    async def asked() -> WorkerServicer:
        return WorkerService(settings)._servicer

    return asyncio.run(asked()).identity


async def test_the_tokens_of_a_single_row_arrive_before_its_failure(folder: Path) -> None:
    gate = Gate()
    failure = fail_rows(RowFailure("BAD_NUMBERS", "not a number"), lambda step, segment: step == 4)
    settings = settings_for(folder)
    service = WorkerService(settings, load=lambda _settings, _progress: FakeEngine(MODEL, gate, failure))
    gate.allow(1)
    async with ready(service, settings) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        generating = service._servicer.generating
        assert generating is not None
        begin = worker_pb2.Start(
            tokens={"rows": 1, "width": 1, "input_ids": b"\1\0\0\0"},
            rows=[worker_pb2.RowParams(max_new_tokens=9)],
            vocabulary_fingerprint=generating.model.vocabulary_fingerprint,
        )
        call = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
        await call.write(worker_pb2.WorkerServiceGenerateRequest(start=begin))
        await asyncio.to_thread(gate.wait_until_reached)
        # Both tokens and the failure are there before the reader looks: the event loop is held until then.
        gate.open()
        while generating.loop._batch.ended_rows < 2:
            pass
        first = await call.read()
        assert [len(event.tokens.ids) for event in first.events] == [4 * 2]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
