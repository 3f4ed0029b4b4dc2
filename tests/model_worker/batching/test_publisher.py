"""Who is woken, and in which order."""

import asyncio

from model_worker.batching.load import LoadSnapshot
from model_worker.batching.publisher import Publisher
from model_worker.batching.token_stream import TokenStream

IDLE = LoadSnapshot()


async def test_readers_that_have_not_seen_a_token_are_woken_before_those_that_have():
    publisher = Publisher(asyncio.get_running_loop(), IDLE)
    old, new = [TokenStream([2]) for _ in range(8)], [TokenStream([1]) for _ in range(8)]
    order = []

    async def read(stream: TokenStream) -> None:
        await anext(stream)
        order.append(stream)

    for stream in old:
        stream.push(0, 7)
        await anext(stream)
    readers = [asyncio.create_task(read(stream)) for pair in zip(old, new, strict=True) for stream in pair]
    await asyncio.sleep(0)  # all of them wait
    for stream in old + new:
        stream.push(0, 7)
    publisher.publish(old + new, IDLE)
    await asyncio.gather(*readers)
    assert set(order[:8]) == set(new)
    assert set(order[8:]) == set(old)
