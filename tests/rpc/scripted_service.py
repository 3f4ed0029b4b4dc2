"""A service whose methods the test writes: the contract's own services, without anything behind them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from rpc.settings import ServiceSettings
from tests.serving import RunningServer, listening
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rpc.service import Surroundings

FULL_NAME = "tokenmill.v1.InferenceService"
GENERATE = f"/{FULL_NAME}/Generate"
STREAM_GENERATE = f"/{FULL_NAME}/StreamGenerate"
WORKER_GENERATE = "/tokenmill.v1.WorkerService/Generate"


async def answer(request: Any, context: Any) -> gateway_pb2.GenerateResponse:
    return gateway_pb2.GenerateResponse(outputs=[gateway_pb2.Output(text="answer")])


async def nothing() -> None:
    """Loads at once."""


@dataclass
class ScriptedService:
    """One method of each shape: unary, server stream, bidirectional stream, and a subscription."""

    generate: Callable[..., Any] = answer
    stream_generate: Callable[..., Any] = answer
    worker_generate: Callable[..., Any] = answer
    watch_load: Callable[..., Any] = answer
    start: Callable[[], Awaitable[None]] = nothing
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    ends: list[str] = field(default_factory=list)
    name: str = "scripted"
    full_name: str = FULL_NAME

    def register(self, server: grpc.aio.Server) -> None:
        inference, worker = gateway_pb2_grpc.InferenceServiceServicer(), worker_pb2_grpc.WorkerServiceServicer()
        inference.Generate, inference.StreamGenerate = self.generate, self.stream_generate
        worker.Generate, worker.WatchLoad = self.worker_generate, self.watch_load
        gateway_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)

    def check_caller(self, metadata: object) -> None:
        pass

    async def listen(self, surroundings: Surroundings) -> None:
        pass

    async def wait_broken(self) -> str:
        await self.broken.wait()
        return "the engine is gone"

    def describe(self) -> dict[str, object]:
        return {"models": ["scripted"]}

    def stop_accepting(self) -> None:
        self.ends.append("stop accepting")

    async def close(self) -> None:
        self.ends.append("close")


def settings(**given: Any) -> ServiceSettings:
    return ServiceSettings(**({"port": 0, "drain_seconds": 0.0} | given))


@asynccontextmanager
async def connected(service: ScriptedService, **given: Any) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    """A ready server of `service`, and a channel to it."""
    async with listening(service, settings(**given)) as server:
        await server.ready.wait()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server, channel


@asynccontextmanager
async def channel_to(**methods: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a ready server with these methods."""
    async with connected(ScriptedService(**methods)) as (_, channel):
        yield channel


def calls_of(server: RunningServer) -> list[asyncio.Task[object]]:
    """The tasks of the RPCs that `server` is handling."""
    return [call.task for call in server._interceptor.running._calls]
