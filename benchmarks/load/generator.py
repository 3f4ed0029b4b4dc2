"""How requests are sent: as many at a time as there are callers, or whenever they happen to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from benchmarks.load.requests import Request
from benchmarks.load.trace import Trace

Send: TypeAlias = Callable[[Request], Awaitable[Trace]]


async def closed_loop(send: Send, requests: Sequence[Request], in_flight: int) -> list[Trace]:
    """`in_flight` callers, each of which sends its next request when its last one has ended."""
    left = iter(requests)
    traces: list[Trace] = []

    async def call() -> None:
        for request in left:
            trace = await send(request)
            traces.append(trace)

    async with asyncio.TaskGroup() as callers:
        for _ in range(in_flight):
            callers.create_task(call())
    return traces


async def open_loop(send: Send, requests: Sequence[Request], arrivals: Sequence[float]) -> list[Trace]:
    """Every request when its time has come (seconds from now), however many are still running."""
    start = asyncio.get_running_loop().time()

    async def call(request: Request, arrival: float) -> Trace:
        await asyncio.sleep(start + arrival - asyncio.get_running_loop().time())
        return await send(request)

    async with asyncio.TaskGroup() as callers:
        tasks = [callers.create_task(call(*pair)) for pair in zip(requests, arrivals, strict=True)]
    return [task.result() for task in tasks]
