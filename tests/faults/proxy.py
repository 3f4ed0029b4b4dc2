"""A TCP proxy between two services that delays, holds or cuts what passes: a bad network, on one machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CHUNK = 65536


class Proxy:
    """Owns the connections of one hop. While it holds, nothing passes in either direction and nobody is told."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = host, int(port)
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = ""
        self.delay_seconds = 0.0  # for every piece of every direction
        self.held_bytes = 0  # on their way to the target

    def hold(self) -> None:
        """Let nothing pass from now on, new connections neither: a black hole."""
        self.held_bytes = 0
        self._open.clear()

    def release(self) -> None:
        """Let pass what was held, and all that comes."""
        self._open.set()

    def cut(self) -> None:
        """Break every connection, with a reset; new ones are made."""
        for writer in self._writers:
            writer.transport.abort()

    async def holds(self, least_bytes: int) -> None:
        """Return once so many bytes wait on their way to the target."""
        while self.held_bytes < least_bytes:
            self._changed.clear()
            await self._changed.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._writers.add(writer)
        with suppress(OSError):
            try:
                await self._open.wait()
                to_reader, to_writer = await asyncio.open_connection(*self._target)
                ends.append(to_writer)
                self._writers.add(to_writer)
                await asyncio.gather(
                    self._pump(reader, to_writer, is_forth=True), self._pump(to_reader, writer, is_forth=False)
                )
            finally:
                for end in ends:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_forth: bool) -> None:
        while data := await reader.read(_CHUNK):
            if is_forth and not self._open.is_set():
                self.held_bytes += len(data)
                self._changed.set()
            await asyncio.sleep(self.delay_seconds)
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionError("the other side has closed")
