"""`grpc.health.v1` through load → ready → drain, and reflection, as probes and load balancers see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rpc.health import LIVENESS, NOT_SERVING, READINESS, SERVICE_UNKNOWN, SERVING
from tests.failure import failure
from tests.rpc.scripted_service import FULL_NAME, ScriptedService, channel_to, settings
from tests.serving import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READY_NAMES = ("", READINESS, FULL_NAME)


def request(name: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


async def next_state(watch: Any) -> int:
    return (await watch.read()).status


async def test_a_loading_service_is_alive_but_not_ready_and_a_draining_one_too():
    loaded = asyncio.Event()
    service = ScriptedService(start=loaded.wait)
    async with (
        listening(service, settings(drain_seconds=0.2)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watches = {name: health.Watch(request(name)) for name in (LIVENESS, *READY_NAMES)}
        assert [await next_state(watch) for watch in watches.values()] == [SERVING] + [NOT_SERVING] * 3
        loaded.set()
        assert [await next_state(watches[name]) for name in READY_NAMES] == [SERVING] * 3
        assert (await health.Check(request(READINESS))).status == SERVING
        server.stop()
        assert [await next_state(watches[name]) for name in READY_NAMES] == [NOT_SERVING] * 3
        assert (await health.Check(request(LIVENESS))).status == SERVING
        assert service.ends == []
        # A watch has no end of its own: the shutdown ends it, and nobody waits for it.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watches[READINESS].read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await server.life
    assert service.ends == ["stop accepting", "close"]


async def test_an_unknown_name_is_not_found_and_a_watch_of_it_waits():
    async with channel_to() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert (await failure(health.Check(request("tokenmill.v9.Oracle")))).code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(request("tokenmill.v9.Oracle"))
        assert await next_state(watch) == SERVICE_UNKNOWN
        watch.cancel()


async def test_list_names_everything_that_can_be_asked_for():
    async with channel_to() as channel:
        states = (await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())).statuses
    assert {name: state.status for name, state in states.items()} == dict.fromkeys((LIVENESS, *READY_NAMES), SERVING)


async def test_a_watcher_that_does_not_read_does_not_delay_the_others():
    service = ScriptedService()
    async with (
        listening(service, settings()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        await server.ready.wait()
        health = health_pb2_grpc.HealthStub(channel)
        asleep, awake = health.Watch(request(READINESS)), health.Watch(request(READINESS))
        await next_state(asleep)
        seen = [await next_state(awake)]
        for ready in (False, True, False):
            server.health.set_ready(ready=ready)
            seen.append(await next_state(awake))
        assert seen == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
        assert [await next_state(asleep) for _ in range(3)] == [NOT_SERVING, SERVING, NOT_SERVING]
        asleep.cancel()
        awake.cancel()


async def listed_services(channel: grpc.aio.Channel) -> set[str]:
    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests())
    return {service.name async for answer in call for service in answer.list_services_response.service}


async def test_reflection_lists_the_service_and_health():
    async with channel_to() as channel:
        assert {FULL_NAME, "grpc.health.v1.Health"} <= await listed_services(channel)


async def test_reflection_can_be_switched_off():
    async with (
        listening(ScriptedService(), settings(reflection=False)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed_services(channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
