"""Watching a service for as long as there is one: what it says of its readiness, again after every interruption."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc import log
from rpc.health import READINESS, SERVING

LOGGER = logging.getLogger("tokenmill.gateway.watching")
RETRY_SECONDS = 0.5  # between attempts to reach what cannot be watched
REFUSED = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})  # our certificate is
LEAVE_SECONDS = 2.0  # until those that take the place of what is gone are ready


async def for_ever(watch: Callable[[], Awaitable[None]], target: str) -> None:
    """Begin with `watch` again whenever it has ended or failed. That it is refused is told once."""
    is_told = False
    while True:
        try:
            await watch()
        except grpc.aio.AioRpcError as error:
            is_refused = error.code() in REFUSED
            level = logging.WARNING if is_refused and not is_told else logging.DEBUG
            log.event(LOGGER, level, "not watched", target=target, code=error.code().name)
            is_told = is_refused
        except Exception:  # whatever a service says of itself, the next one to start there is looked at again
            LOGGER.exception("not understood", extra={log.FIELDS: {"target": target}})
        await asyncio.sleep(RETRY_SECONDS)


async def readiness(channel: grpc.aio.Channel) -> AsyncGenerator[bool, None]:
    """Whether the service takes calls: now, and at each change. Errors: AioRpcError when it can no longer be heard."""
    health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=READINESS)
    async for answer in health.Watch(request, wait_for_ready=True):
        yield answer.status == SERVING


async def answers(channel: grpc.aio.Channel, seconds: float) -> bool:
    """Whether anything at all is answered within `seconds`: else it is gone, frozen or cut off."""
    health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
    try:
        await health.Check(health_pb2.HealthCheckRequest(service=READINESS), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.code() not in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    return True
