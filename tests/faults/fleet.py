"""A gateway, its tokenizer services and its workers: each a process of its own, behind a proxy of its own."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from tests.end_to_end.stack import NAME
from tests.faults.observed_gateway import HELD
from tests.faults.proxy import Proxy
from tests.processes import TOKENIZER, WORKER, ready_process, scripted
from tokenmill.v1 import gateway_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.processes import Process

    Flags: TypeAlias = Sequence[str]

GATEWAY = "tests.faults.observed_gateway"
QUIET_SECONDS = 10.0  # until what was given up has let go of everything, on a busy machine


@dataclass(eq=False)
class Part:
    """A service that can be struck; `address` is its own, past the proxy."""

    process: Process
    address: str
    proxy: Proxy

    def strike(self, fault: str) -> None:
        """Do it harm: a signal by its name, `blackhole`, or `cut`."""
        match fault:
            case "blackhole":
                self.proxy.hold()
            case "cut":
                self.proxy.cut()
            case _:
                self.process.signal(signal.Signals[fault])

    def heal(self, fault: str) -> None:
        """Take back what can be taken back."""
        self.proxy.release()
        if fault == "SIGSTOP":
            self.process.signal(signal.SIGCONT)

    @property
    def is_alive(self) -> bool:
        return self.process.process.returncode is None


async def load(worker: Part, holds: Callable[[worker_pb2.LoadReport], object]) -> worker_pb2.LoadReport:
    """The load of a worker, as soon as `holds` is true of it."""
    async with grpc.aio.insecure_channel(worker.address) as channel:
        watch = worker_pb2_grpc.WorkerServiceStub(channel).WatchLoad(worker_pb2.WatchLoadRequest())
        async for response in watch:
            if holds(response.load):
                return response.load
    raise AssertionError("the watch ended")


@dataclass
class Fleet:
    """All parts, ready; `stub` calls the gateway through its proxy."""

    tokenizers: list[Part]
    workers: list[Part]
    gateway: Part
    stub: Any

    async def quiet(self) -> None:
        """Return once nothing living has anything left to do. Errors: TimeoutError."""
        async with asyncio.timeout(QUIET_SECONDS):
            for worker in self.workers:
                if worker.is_alive:
                    await load(worker, lambda load: not (load.running or load.waiting or load.kv_tokens_used))
            while self.gateway.is_alive and (await self.held())["inflight"]:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.02)

    async def have_rows(self, rows: int) -> None:
        """Return once the workers together have taken in so many."""
        found = dict.fromkeys(self.workers, 0)

        def are_found(worker: Part, load: worker_pb2.LoadReport) -> bool:
            found[worker] = load.running + load.waiting
            return sum(found.values()) >= rows

        watches = [asyncio.create_task(load(worker, partial(are_found, worker))) for worker in self.workers]
        await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        for watch in watches:
            watch.cancel()
        await asyncio.wait(watches)

    async def held(self) -> dict[str, Any]:
        """What the gateway says that it holds: `inflight` calls, `tasks`."""
        self.gateway.process.signal(signal.SIGUSR1)
        return await self.gateway.process.logged(HELD)


@asynccontextmanager
async def fleet(
    folder: Path, *scripts: dict[str, Any], tokenizers: int = 1, workers: Flags = (), gateway: Flags = ()
) -> AsyncIterator[Fleet]:
    """Start everything for the model in `folder`, with one worker per script; `workers` and `gateway` are their flags.

    Whatever still lives at the end is killed.
    """
    async with AsyncExitStack() as stack:

        async def start(module: str, *flags: str) -> Part:
            process, address = await stack.enter_async_context(ready_process(module, *flags))
            return Part(process, address, await stack.enter_async_context(Proxy(address).running()))

        tokenizer_flags = ["--model", f"{NAME}={folder}", "--threads", "1"]
        parts = await asyncio.gather(
            *(start(TOKENIZER, *tokenizer_flags) for _ in range(tokenizers)),
            *(start(WORKER, *scripted(folder, **script), "--served-model-name", NAME, *workers) for script in scripts),
        )
        behind = [flag for part in parts[:tokenizers] for flag in ("--tokenizer", part.proxy.address)]
        behind += [flag for part in parts[tokenizers:] for flag in ("--worker", part.proxy.address)]
        # It drains, as by default: else calls that have reached it, and that it has not taken yet, are cancelled.
        front = await start(GATEWAY, *behind, "--drain-seconds", "1", *gateway)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(front.proxy.address))
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        yield Fleet(parts[:tokenizers], parts[tokenizers:], front, stub)
