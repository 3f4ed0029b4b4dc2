"""Who is in flight, and when."""

from __future__ import annotations

import asyncio

from benchmarks.load.generator import closed_loop, open_loop
from benchmarks.load.requests import Request
from benchmarks.load.trace import Trace

REQUESTS = [Request(f" {number}", (number,), 1) for number in range(10)]


class Counter:
    """A target that holds every request until its turn of the event loop has passed a few times."""

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.running = 0
        self.most = 0

    async def send(self, request: Request) -> Trace:
        self.sent.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(5):
            await asyncio.sleep(0)
        self.running -= 1
        return Trace(len(request.ids))


async def test_a_closed_loop_keeps_its_number_in_flight():
    target = Counter()
    traces = await closed_loop(target.send, REQUESTS, 3)
    assert (len(traces), target.most) == (10, 3)
    assert target.sent == REQUESTS


async def test_an_open_loop_waits_for_nobody():
    target = Counter()
    traces = await open_loop(target.send, REQUESTS, [0.0] * len(REQUESTS))
    assert (len(traces), target.most) == (10, 10)


async def test_an_open_loop_sends_in_order_of_arrival():
    target = Counter()
    await open_loop(target.send, REQUESTS, [(9 - number) / 1000 for number in range(10)])
    assert target.sent == REQUESTS[::-1]
