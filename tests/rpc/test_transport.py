"""What gRPC's own defaults would do to our callers."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc.health import NOT_SERVING, SERVING
from tests.rpc.scripted_service import ScriptedService, channel_to, connected, settings
from tests.serving import listening
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

CALLS = 2000
SETTINGS, PING, GOAWAY, ENHANCE_YOUR_CALM = 4, 6, 7, 0xB  # RFC 9113


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Of HTTP/2, for the connection as a whole."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 0]) + payload


async def test_of_thousands_of_calls_at_once_the_library_drops_none() -> None:
    async with channel_to() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answers = await asyncio.gather(*(health.Check(health_pb2.HealthCheckRequest()) for _ in range(CALLS)))
        assert len(answers) == CALLS


async def test_who_pings_all_the_time_is_sent_away() -> None:
    async with listening(ScriptedService(), settings()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))
        for number in range(20):
            writer.write(frame(PING, number.to_bytes(8, "big")))
        async with asyncio.timeout(10):
            while True:
                length, kind = int.from_bytes(await reader.readexactly(3), "big"), (await reader.readexactly(1))[0]
                payload = (await reader.readexactly(5 + length))[5:]
                if kind == GOAWAY and int.from_bytes(payload[4:8], "big") == ENHANCE_YOUR_CALM:
                    break
        writer.transport.abort()


async def test_callers_open_another_connection_after_a_while_and_none_of_their_calls_fails() -> None:
    seen: set[str] = set()

    async def answer(_request: object, context: Any) -> gateway_pb2.GenerateResponse:
        seen.add(context.peer())
        await asyncio.sleep(0.01)
        return gateway_pb2.GenerateResponse()

    async with connected(ScriptedService(generate=answer), max_connection_age_seconds=0.2) as (server, channel):
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING

        async def call() -> None:
            while len(seen) < 4:
                await stub.Generate(gateway_pb2.GenerateRequest())

        async with asyncio.timeout(30):
            await asyncio.gather(*(call() for _ in range(20)))
        server.health.set_ready(ready=False)
        assert (await watch.read()).status == NOT_SERVING  # on the connection that it began on
        watch.cancel()
