"""The address of a service in front of pods: each new connection goes to one of them, and stays there."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIECE_BYTES = 65536


class ServiceAddress:
    """`endpoints` take new connections, `host:port` each, in turn; those that there are go on, as with kube-proxy."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []
        self.address = ""
        self._turns = itertools.count()
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[ServiceAddress]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            if not self.endpoints:
                return
            host, _, port = self.endpoints[next(self._turns) % len(self.endpoints)].rpartition(":")
            with suppress(OSError):  # one side has closed, or there is nobody
                to_reader, to_writer = await asyncio.open_connection(host, int(port))
                ends.append(to_writer)
                await asyncio.gather(_pass_on(reader, to_writer), _pass_on(to_reader, writer))
        finally:
            for end in ends:
                end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
