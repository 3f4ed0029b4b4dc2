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
    from collections.abc import AsyncIterator
    from pathlib import Path

GATEWAY, TOKENIZER, WORKER = "gateway", "tokenizer_service", "model_worker"


class Process:
    """One service; `lines` are those of its log that were read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    async def logged(self, message: str) -> dict[str, Any]:
        """The first line from here on with this message."""
        assert self.process.stderr
        while line := (await self.process.stderr.readline()).decode():
            self.lines.append(line)
            if line.startswith("{") and (fields := json.loads(line))["message"] == message:
                return dict(fields)
        raise AssertionError(f"{message!r} was never logged, only {self.lines}")

    async def exit_code(self) -> int:
        """The exit code, once the process has ended and all of its lines are read."""
        assert self.process.stderr
        self.lines += (await self.process.stderr.read()).decode().splitlines()
        return await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def process(module: str, *flags: str) -> AsyncIterator[Process]:
    """`python -m module flags`; killed at the end if it still lives."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--log-format", "json", *flags, stderr=asyncio.subprocess.PIPE, env=os.environ
    )
    try:
        yield Process(started)
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


@asynccontextmanager
async def ready_process(module: str, *flags: str) -> AsyncIterator[tuple[Process, str]]:
    """A service that is ready, on a free port, and its address."""
    async with process(module, "--port", "0", "--drain-seconds", "0", *flags) as running:
        port = (await running.logged("ready"))["port"]
        yield running, f"127.0.0.1:{port}"


def scripted(folder: Path, **script: Any) -> list[str]:
    """Flags of a worker of the model in `folder` that does what `script` says."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=folder, delete=False) as file:
        json.dump(script, file)
    return ["--model", str(folder), "--engine", "scripted", "--script", file.name]
