"""Connections that take and give nothing: too many, too slow, idle. Raw sockets, as whoever means harm has them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway import server as gateway_server
from gateway.http.call import MAX_BODY_BYTES
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from rpc import transport
from tests.certificates import Authority
from tests.end_to_end.http import HTTP
from tests.end_to_end.tls_stack import NEW_CONNECTION
from tests.rpc.scripted_service import ScriptedService, settings
from tests.serving import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOBODY = ("127.0.0.1:1",)
REQUEST = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@asynccontextmanager
async def http_port(**given: Any) -> AsyncIterator[int]:
    """Of a gateway with nobody behind it."""
    own = GatewaySettings(port=0, drain_seconds=0, tokenizer=NOBODY, worker=NOBODY, **HTTP, **given)
    service = GatewayService(own)
    async with listening(service, own):
        assert service.http is not None
        yield service.http.port


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The head of the answer to a request of its own."""
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"}")
    return head


async def test_a_connection_too_many_is_told_so_and_closed_and_the_others_go_on() -> None:
    async with http_port(http_max_connections=2) as port, connected(port) as one, connected(port) as two:
        for streams in (one, two):
            assert (await answered(*streams)).startswith(b"HTTP/1.1 200")
        async with connected(port) as (reader, _):
            assert (await reader.read()).startswith(b"HTTP/1.1 503")
        assert (await answered(*one)).startswith(b"HTTP/1.1 200")
        two[1].close()
        await two[0].read()
        async with connected(port) as again:
            assert (await answered(*again)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n", REQUEST + b"GET /he"])
async def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(gateway_server, "HEADER_SECONDS", 0.05)
    async with http_port() as port, connected(port) as (reader, writer):
        if sent.startswith(REQUEST):
            await answered(reader, writer)
            sent = sent.removeprefix(REQUEST)
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 408")


async def test_nor_does_one_that_comes_drop_by_drop_last_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "HEADER_SECONDS", 0.2)
    async with http_port() as port, connected(port) as (reader, writer):

        async def drip() -> None:
            writer.write(b"GET /health HTTP/1.1\r\n")
            while True:
                writer.write(b"x: y\r\n")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")
        dripping.cancel()


async def test_nor_may_a_body_that_was_refused_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "HEADER_SECONDS", 0.1)
    async with http_port() as port, connected(port) as (reader, writer):
        writer.write(
            b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n" + b"x" * (MAX_BODY_BYTES + 1)
        )
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        with suppress(ConnectionError):  # whose last word a reset may be
            await reader.read()
        dripping.cancel()


async def test_who_has_been_answered_may_be_silent_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "HEADER_SECONDS", 0.05)
    async with http_port() as port, connected(port) as (reader, writer):
        await answered(reader, writer)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        assert (await answered(reader, writer)).startswith(b"HTTP/1.1 200")


async def test_the_answer_on_a_connection_that_is_old_is_its_last() -> None:
    async with http_port(max_connection_age_seconds=0.2) as port, connected(port) as (reader, writer):
        assert b"connection: close" not in await answered(reader, writer)
        while b"connection: close" not in await answered(reader, writer):
            pass
        assert await reader.read() == b""


async def test_a_head_that_is_too_large_is_refused() -> None:
    async with http_port() as port, connected(port) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nx: " + b"y" * 70_000)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 4")


def limited(monkeypatch: pytest.MonkeyPatch, **options: int) -> None:
    """Servers that are made from now on have other limits."""
    own = {f"grpc.{name}": value for name, value in options.items()}
    monkeypatch.setattr(transport, "SERVER_OPTIONS", [*({**dict(transport.SERVER_OPTIONS), **own}).items()])


async def check(channel: grpc.aio.Channel) -> Any:
    return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


def grpc_channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=NEW_CONNECTION)


def test_every_server_has_limits() -> None:
    limits = dict(transport.SERVER_OPTIONS)
    for name in (
        "max_concurrent_streams",
        "max_allowed_incoming_connections",
        "max_connection_idle_ms",
        "server_handshake_timeout_ms",
        "max_metadata_size",
        "max_receive_message_length",
    ):
        assert 0 < limits[f"grpc.{name}"] < 2**31


async def test_grpc_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, max_allowed_incoming_connections=1)
    async with listening(ScriptedService(), settings()) as server, grpc_channel(server.port) as one:
        await check(one)
        async with grpc_channel(server.port) as another:
            with pytest.raises(grpc.aio.AioRpcError):
                await check(another)
        await check(one)


async def test_calls_of_one_grpc_connection_are_bounded_and_those_beyond_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, max_concurrent_streams=1)
    async with listening(ScriptedService(), settings()) as server, grpc_channel(server.port) as channel:
        await check(channel)  # the limit is known from the first answer on
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        waiting = asyncio.ensure_future(check(channel))
        async with grpc_channel(server.port) as other:
            await check(other)
        assert not waiting.done()
        watch.cancel()
        await waiting


async def test_an_idle_grpc_connection_is_closed_and_the_next_call_opens_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limited(monkeypatch, max_connection_idle_ms=100)
    async with listening(ScriptedService(), settings()) as server, grpc_channel(server.port) as channel:
        await check(channel)
        state = channel.get_state()
        while state is not grpc.ChannelConnectivity.IDLE:
            await channel.wait_for_state_change(state)
            state = channel.get_state()
        await check(channel)


async def test_a_grpc_connection_that_is_old_gets_no_new_calls_and_loses_none() -> None:
    own = settings(max_connection_age_seconds=0.1)
    async with listening(ScriptedService(), own) as server, grpc_channel(server.port) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        state = channel.get_state()
        while state is not grpc.ChannelConnectivity.IDLE:
            await channel.wait_for_state_change(state)
            state = channel.get_state()
        server.health.set_ready(ready=False)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING, "it goes on where it began"
        await check(channel)
        watch.cancel()


async def test_a_handshake_that_does_not_begin_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limited(monkeypatch, server_handshake_timeout_ms=100)
    pair = Authority(tmp_path).pair("server")
    own = settings(ssl_certfile=pair.certificate, ssl_keyfile=pair.key)
    async with listening(ScriptedService(), own) as server, connected(server.port) as (reader, _):
        assert await reader.read() == b""


async def test_metadata_that_is_too_large_is_refused_and_never_by_chance() -> None:
    async with listening(ScriptedService(), settings()) as server, grpc_channel(server.port) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(10):
            for size in (transport.MAX_METADATA_BYTES + 200, 40_000):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await health.Check(health_pb2.HealthCheckRequest(), metadata=(("x", "y" * size),))
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            fits = transport.MAX_METADATA_BYTES - 1000  # the library's own entries count, too
            await health.Check(health_pb2.HealthCheckRequest(), metadata=(("x", "y" * fits),))
