"""Services in processes of their own; every line of their logs is JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

GATEWAY, TOKENIZER, WORKER = "gateway", "tokenizer_service", "model_worker"


class Process:
    """One service. Its log is read as it is written, or a full pipe would stop it; `lines` are those so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._looked_at = 0
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    async def logged(self, message: str) -> dict[str, Any]:
        """The first line with this message after that of the last call."""
        while True:
            self._more.clear()
            for line in self.lines[self._looked_at :]:
                self._looked_at += 1
                if line.startswith("{") and (fields := json.loads(line))["message"] == message:
                    return dict(fields)
            assert not self._reading.done(), f"{message!r} was never logged, only {self.lines}"
            await self._more.wait()

    async def has_logged(self, message: str, times: int, **fields: Any) -> None:
        """Return once so many lines of the log, from its beginning, have this message and these fields."""
        wanted = {"message": message, **fields}.items()
        while sum(line.startswith("{") and wanted <= json.loads(line).items() for line in self.lines) < times:
            assert not self._reading.done(), f"{message!r} was not logged {times} times, only {self.lines}"
            self._more.clear()
            await self._more.wait()

    async def wrote(self, text: str) -> None:
        """Return once a line, of the log or not, holds `text`."""
        while not any(text in line for line in self.lines):
            assert not self._reading.done(), f"{text!r} was never written, only {self.lines}"
            self._more.clear()
            await self._more.wait()

    async def exit_code(self) -> int:
        """The exit code, once the process has ended and all of its lines are read."""
        await self._reading
        return await self.process.wait()

    async def kill(self) -> None:
        """End it now, if it still lives."""
        if self.process.returncode is None:
            self.process.kill()
        await self.exit_code()

    async def _read(self) -> None:
        assert self.process.stderr
        try:
            async for line in self.process.stderr:
                self.lines.append(line.decode().rstrip("\n"))
                self._more.set()
        finally:
            self._more.set()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def process(module: str, *flags: str, within: Sequence[str] = ()) -> AsyncIterator[Process]:
    """`python -m module flags`, as what the command `within` becomes; killed at the end if it still lives."""
    command = *within, sys.executable, "-m", module, "--log-format", "json", *flags
    started = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=os.environ)
    running = Process(started)
    try:
        yield running
    finally:
        await running.kill()


@asynccontextmanager
async def ready_process(
    module: str, *flags: str, host: str = "127.0.0.1", within: Sequence[str] = ()
) -> AsyncIterator[tuple[Process, str]]:
    """A service that is ready, on a free port, and its address."""
    where = "--host", host, "--port", "0"
    async with process(module, *where, "--drain-seconds", "0", *flags, within=within) as running:
        port = (await running.logged("ready"))["port"]
        yield running, f"{host}:{port}"


def scripted(folder: Path, **script: Any) -> list[str]:
    """Flags of a worker of the model in `folder` that does what `script` says."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=folder, delete=False) as file:
        json.dump(script, file)
    return ["--model", str(folder), "--engine", "scripted", "--script", file.name]
