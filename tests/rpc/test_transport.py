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


async def heard(reader: asyncio.StreamReader, *kinds: int) -> tuple[int, bytes]:
    """The next frame of one of these kinds, and its payload."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] in kinds:
            return head[3], payload


async def test_who_pings_all_the_time_is_sent_away() -> None:
    async with listening(ScriptedService(), settings()) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))
        kind, answered = PING, -1
        while kind == PING:  # one at a time: what is unread when it closes would end the connection with a reset
            writer.write(frame(PING, b"are you?"))
            kind, payload = await heard(reader, PING, GOAWAY)
            answered += 1
        assert int.from_bytes(payload[4:8], "big") == ENHANCE_YOUR_CALM
        assert answered <= 4
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
