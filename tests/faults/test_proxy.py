"""The proxy passes on what it is given, late, later, or not at all."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a service that says everything back."""

    async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(say_back, "127.0.0.1", 0)
    async with server, Proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}").running() as proxy:
        yield proxy


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = proxy.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def test_bytes_pass_in_both_directions() -> None:
    async with echo() as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"x" * 500_000)
        assert await reader.readexactly(500_000) == b"x" * 500_000
        writer.close()


async def test_what_is_held_comes_when_it_is_released() -> None:
    async with echo() as proxy:
        reader, writer = await connect(proxy)
        proxy.hold()
        writer.write(b"hello")
        await proxy.holds(5)
        late_reader, late_writer = await connect(proxy)
        late_writer.write(b"late")
        answer = asyncio.create_task(reader.readexactly(5))
        assert not (await asyncio.wait({answer}, timeout=0.05))[0]
        proxy.release()
        assert await answer == b"hello"
        assert await late_reader.readexactly(4) == b"late"
        writer.close()
        late_writer.close()


async def test_a_cut_resets_and_the_next_connection_works() -> None:
    async with echo() as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"hello")
        await reader.readexactly(5)
        proxy.cut()
        with suppress(ConnectionError):
            assert not await reader.read(1)
        writer.close()
        reader, writer = await connect(proxy)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        writer.close()


async def test_a_delay_delays() -> None:
    async with echo() as proxy:
        reader, writer = await connect(proxy)
        proxy.delay_seconds = 0.05
        began = time.monotonic()
        writer.write(b"hello")
        await reader.readexactly(5)
        assert time.monotonic() - began >= 0.1
        writer.close()
