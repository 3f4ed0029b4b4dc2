"""All three services on this machine, as child processes: started together, ready together, gone together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cli.environment import left_out
from cli.log_line import LogLine
from cli.progress import StartProgress
from cli.readiness import follow_loading, wait_ready
from cli.service_process import ServiceEndedError, ServiceProcess

HOST = "127.0.0.1"
START_SECONDS = 900.0  # a large model from a slow disk takes minutes; what takes longer will not come
GRACE_SECONDS = 5.0  # one person's own calls: a short end is better than a complete one
STOP_SECONDS = GRACE_SECONDS + 5.0
CAUSE_SECONDS = 0.5  # a broken connection is noticed before the end of the process behind it
Result = TypeVar("Result")


class StackError(Exception):
    """The stack cannot start or go on; the message is for people."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the services listen; 0 picks a free port."""

    gateway: int = 50051
    tokenizer: int = 50052
    worker: int = 50053
    http: int | None = 8080  # the gateway's; None: no HTTP


FREE_PORTS = Ports(0, 0, 0, None)


@dataclass(frozen=True, slots=True)
class Modules:
    """What runs as each service; tests put small ones in."""

    gateway: str = "gateway"
    tokenizer: str = "tokenizer_service"
    worker: str = "model_worker"


OUR_MODULES = Modules()


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to start."""

    model: Path
    served_name: str
    ports: Ports = FREE_PORTS
    worker_arguments: tuple[str, ...] = ()
    modules: Modules = OUR_MODULES

    def tokenizer_command(self) -> list[str]:
        """Arguments of the tokenizer service."""
        return ["--model", f"{self.served_name}={self.model}", "--port", str(self.ports.tokenizer)]

    def worker_command(self) -> list[str]:
        """Arguments of the model worker."""
        model = ["--model", str(self.model), "--served-model-name", self.served_name]
        return [*model, "--port", str(self.ports.worker), *self.worker_arguments]

    def gateway_command(self, tokenizer: str, worker: str) -> list[str]:
        """Arguments of the gateway, which is told where the others listen."""
        http = [] if self.ports.http is None else ["--http-port", str(self.ports.http)]
        return ["--tokenizer", tokenizer, "--worker", worker, "--port", str(self.ports.gateway), *http]


class LocalStack:
    """Owns the three processes. An async context: inside it they are ready, after it they are gone.

    Warnings and errors that they log are passed on through `progress`; with `verbose` every line.
    """

    def __init__(self, options: StackOptions, progress: StartProgress, *, verbose: bool = False) -> None:
        self.options = options
        self.progress = progress
        self.addresses: dict[str, str] = {}
        self.http_address: str | None = None
        self._verbose = verbose
        self._processes: list[ServiceProcess] = []  # in the order they were started
        self._watches: list[asyncio.Task[None]] = []
        self._broken: asyncio.Future[ServiceEndedError] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        """Start everything and wait until it is ready. Errors: StackError, with the last lines of what failed."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.unless_one_ends(self._start())
        except TimeoutError as error:
            await self.stop()
            raise StackError(f"the services were not ready within {START_SECONDS:.0f} s") from error
        except BaseException:
            await self.stop()
            raise
        self.progress.done()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        await self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the services, by name."""
        return {process.name: process.process.pid for process in self._processes}

    async def unless_one_ends(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do `work`, unless a service ends first. Errors: StackError."""
        task = asyncio.create_task(work)
        either: set[asyncio.Future[Any]] = {task, self._broken}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.exception():  # if that is because a service ended, say so: it explains more
                await asyncio.wait({self._broken}, timeout=CAUSE_SECONDS)
            if self._broken.done():
                raise StackError(str(self._broken.result()))
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        """The gateway first, so that no call is cut that it could still finish; cancelled: kill at once."""
        for watch in self._watches:
            watch.cancel()
        try:
            for process in reversed(self._processes):
                await process.stop(STOP_SECONDS)
        finally:
            for process in self._processes:
                process.kill()
            await asyncio.gather(*(process.ended() for process in self._processes))

    async def _start(self) -> None:
        options, modules = self.options, self.options.modules
        if names := left_out(os.environ):
            self.progress.note(f"started without {', '.join(names)}: here it is no TLS, no keys, and ports of its own")
        tokenizer = await self._launch("tokenizer", modules.tokenizer, options.tokenizer_command())
        worker = await self._launch("worker", modules.worker, options.worker_command())
        self.addresses["tokenizer"] = f"{HOST}:{await tokenizer.port()}"
        self.addresses["worker"] = f"{HOST}:{await worker.port()}"
        command = options.gateway_command(self.addresses["tokenizer"], self.addresses["worker"])
        gateway = await self._launch("gateway", modules.gateway, command)
        self.addresses["gateway"] = f"{HOST}:{await gateway.port()}"
        self.http_address = None if gateway.http_port is None else f"{HOST}:{gateway.http_port}"
        loading = asyncio.create_task(follow_loading(self.addresses["worker"], self._show_loading))
        try:
            await asyncio.gather(*(self._wait_ready(name) for name in self.addresses))
        finally:
            loading.cancel()

    async def _launch(self, name: str, module: str, command: list[str]) -> ServiceProcess:
        self.progress.show(name, "starting")
        arguments = [*command, "--host", HOST, "--drain-seconds", "0", "--grace-seconds", str(GRACE_SECONDS)]
        process = await ServiceProcess.start(name, module, arguments, self._note)
        self._processes.append(process)
        self._watches.append(asyncio.create_task(self._watch(process)))
        return process

    async def _watch(self, process: ServiceProcess) -> None:
        ended = await process.ended()
        if not self._broken.done():
            self._broken.set_result(ended)

    async def _wait_ready(self, name: str) -> None:
        await wait_ready(self.addresses[name])
        self.progress.show(name, "ready", 1.0)

    def _show_loading(self, stage: str, fraction: float) -> None:
        if stage and stage != "ready":  # ready is what the health service says, nothing else
            self.progress.show("worker", stage, fraction)

    def _note(self, name: str, line: LogLine) -> None:
        if self._verbose or line.severe:
            self.progress.note(f"{name}: {line}")
