"""What gRPC's own defaults would do to our callers."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.scripted_service import channel_to

CALLS = 2000


async def test_of_thousands_of_calls_at_once_the_library_drops_none() -> None:
    async with channel_to() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answers = await asyncio.gather(*(health.Check(health_pb2.HealthCheckRequest()) for _ in range(CALLS)))
        assert len(answers) == CALLS
