"""One of our services as a child process: started, listened to, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Self

from cli import tied
from cli.environment import for_services
from cli.log_line import LogLine

KEPT_LINES = 12  # of a failed service: enough for its error, few enough to read
MAX_LINE_BYTES = 64 * 1024  # a longer line is cut: nothing a service writes may fill our memory
LAST_WORDS_SECONDS = 1.0  # after its exit, a grandchild may still hold the pipe open
OFFLINE = {"HF_HUB_OFFLINE": "1"}


class ServiceEndedError(Exception):
    """A service ended although nobody asked it to; the message holds its last lines."""


class ServiceProcess:
    """Owns one child process, in a process group of its own: a Ctrl-C in the terminal reaches only us."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: Callable[[str, LogLine], None]) -> None:
        self.name = name
        self.process = process
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.http_port: int | None = None  # of its HTTP port, if it has one, once `port` is known
        self._on_line = on_line
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, name: str, module: str, arguments: list[str], on_line: Callable[[str, LogLine], None]) -> Self:
        """Start `python -m module arguments…`; each line it writes is given to `on_line` with the service's name."""
        process = await asyncio.create_subprocess_exec(
            *tied.command(module, *arguments, "--log-format", "json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=for_services(os.environ) | OFFLINE,
            start_new_session=True,
        )
        return cls(name, process, on_line)

    async def port(self) -> int:
        """The port it listens on, once it does."""
        return await asyncio.shield(self._port)

    async def ended(self) -> ServiceEndedError:
        """Wait for its end; return what to say about one that nobody asked for."""
        code = await self.process.wait()
        await asyncio.wait({self._reading}, timeout=LAST_WORDS_SECONDS)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return ServiceEndedError("\n".join([f"{self.name} {how}", *(f"  {line}" for line in self.last_lines)]))

    async def stop(self, within_seconds: float) -> None:
        """Ask it to end, and end it if it takes longer than `within_seconds`."""
        try:
            if self.process.returncode is None:
                # Not process.terminate(): it may reap the child before asyncio does, and lose its exit code.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.process.pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within_seconds):
                        await self.process.wait()
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and whatever it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def _read(self) -> None:
        assert self.process.stdout
        async for text in lines(self.process.stdout):
            line = LogLine.parse(text)
            self.last_lines.append(str(line))
            if line.message == "listening for HTTP" and "port" in line.fields:
                self.http_port = int(line.fields["port"])
            if line.message == "listening" and "port" in line.fields and not self._port.done():
                self._port.set_result(int(line.fields["port"]))
            self._on_line(self.name, line)


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of `stream`, each cut at MAX_LINE_BYTES; never stops reading, or the writer would block."""
    partial = b""
    while chunk := await stream.read(MAX_LINE_BYTES):
        *whole, partial = (partial + chunk).split(b"\n")
        for line in whole:
            yield line[:MAX_LINE_BYTES].decode(errors="replace")
        partial = partial[:MAX_LINE_BYTES]
    if partial:
        yield partial.decode(errors="replace")
