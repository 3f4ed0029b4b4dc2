"""A gateway, its tokenizer services and its workers: each a process of its own, behind a proxy of its own."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from tests.end_to_end.stack import NAME
from tests.faults.proxy import Proxy
from tests.processes import GATEWAY, TOKENIZER, WORKER, ready_process, scripted
from tokenmill.v1 import gateway_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.processes import Process

QUIET_SECONDS = 10.0  # until what was given up has let go of everything, on a busy machine


@dataclass(eq=False)
class Part:
    """A service that can be struck; `address` is its own, past the proxy."""

    process: Process
    address: str
    proxy: Proxy

    async def strike(self, fault: str) -> None:
        """Do it harm: a signal by its name, or `blackhole`."""
        if fault == "blackhole":
            self.proxy.hold()
        else:
            self.process.signal(signal.Signals[fault])

    async def heal(self, fault: str) -> None:
        """Take back what can be taken back."""
        self.proxy.release()
        if fault == "SIGSTOP":
            self.process.signal(signal.SIGCONT)

    @property
    def is_alive(self) -> bool:
        return self.process.process.returncode is None


@dataclass
class Fleet:
    """All parts, ready; `stub` calls the gateway through its proxy."""

    tokenizers: list[Part]
    workers: list[Part]
    gateway: Part
    stub: Any

    async def load(self, worker: Part, holds: Any) -> worker_pb2.LoadReport:
        """The load of a worker, as soon as `holds` is true of it."""
        async with grpc.aio.insecure_channel(worker.address) as channel:
            watch = worker_pb2_grpc.WorkerServiceStub(channel).WatchLoad(worker_pb2.WatchLoadRequest())
            async for response in watch:
                if holds(response.load):
                    return response.load
        raise AssertionError("the watch ended")

    async def quiet(self) -> None:
        """Return once no living worker has anything left. Errors: TimeoutError."""
        async with asyncio.timeout(QUIET_SECONDS):
            for worker in self.workers:
                if worker.is_alive:
                    await self.load(worker, lambda load: not (load.running or load.waiting or load.kv_tokens_used))


@asynccontextmanager
async def fleet(
    folder: Path, *, tokenizers: int = 1, workers: int = 2, script: dict[str, Any], gateway_flags: list[str]
) -> AsyncIterator[Fleet]:
    """Start everything for the model in `folder`; whatever still lives at the end is killed."""
    async with AsyncExitStack() as stack:

        async def start(module: str, *flags: str) -> Part:
            process, address = await stack.enter_async_context(ready_process(module, *flags))
            return Part(process, address, await stack.enter_async_context(Proxy(address).running()))

        worker_flags = [*scripted(folder, **script), "--served-model-name", NAME]
        tokenizer_flags = ["--model", f"{NAME}={folder}", "--threads", "1"]
        parts = await asyncio.gather(
            *(start(TOKENIZER, *tokenizer_flags) for _ in range(tokenizers)),
            *(start(WORKER, *worker_flags) for _ in range(workers)),
        )
        behind = [flag for part in parts[:tokenizers] for flag in ("--tokenizer", part.proxy.address)]
        behind += [flag for part in parts[tokenizers:] for flag in ("--worker", part.proxy.address)]
        gateway = await start(GATEWAY, *behind, *gateway_flags)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(gateway.proxy.address))
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        yield Fleet(parts[:tokenizers], parts[tokenizers:], gateway, stub)
