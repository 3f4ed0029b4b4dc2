"""A TCP proxy between two services that delays, holds or cuts what passes: a bad network, on one machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIECE_BYTES = 65536
_PIECES = 16  # that wait in one direction of a connection; then its sender has to


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
        try:
            await self._open.wait()
            to_reader, to_writer = await asyncio.open_connection(*self._target)
            ends.append(to_writer)
            self._writers.add(to_writer)
            forth, back = asyncio.Queue[bytes](_PIECES), asyncio.Queue[bytes](_PIECES)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(reader, forth, is_forth=True))
                tasks.create_task(self._take(to_reader, back, is_forth=False))
                tasks.create_task(self._pass_on(forth, to_writer))
                tasks.create_task(self._pass_on(back, writer))
        except* OSError:
            pass  # one side has closed, or there is none
        finally:
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, pieces: asyncio.Queue[bytes], *, is_forth: bool) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            if is_forth and not self._open.is_set():
                self.held_bytes += len(piece)
                self._changed.set()
            await pieces.put(piece)
        await pieces.put(b"")

    async def _pass_on(self, pieces: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        while True:
            piece = await pieces.get()
            await asyncio.sleep(self.delay_seconds)
            await self._open.wait()
            if not piece:
                writer.close()
                await writer.wait_closed()
                raise ConnectionError("one side has closed")
            writer.write(piece)
            await writer.drain()
