from __future__ import annotations

import asyncio
import threading

import pytest

from tokenizer_service.errors import EncodeQueueFull
from tokenizer_service.work_pool import WorkPool


async def test_at_most_as_many_run_as_there_are_threads_and_the_rest_waits():
    pool = WorkPool(2, max_waiting=10)
    running, most, lock, gate = 0, 0, threading.Lock(), threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(timeout=10)  # two run at once, always
        with lock:
            running -= 1

    await asyncio.gather(*(pool.run(work) for _ in range(8)))
    assert most == 2
    await pool.close()


async def test_more_than_may_wait_is_refused_and_a_leaving_caller_makes_room():
    pool = WorkPool(1, max_waiting=1)
    release = threading.Event()
    running = asyncio.create_task(pool.run(release.wait))
    waiting = asyncio.create_task(pool.run(lambda: "done"))
    await asyncio.sleep(0)
    with pytest.raises(EncodeQueueFull):
        await pool.run(lambda: "refused")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    running.cancel()  # its thread goes on, so its place stays taken
    next_one = asyncio.create_task(pool.run(lambda: "done"))
    await asyncio.sleep(0)
    with pytest.raises(EncodeQueueFull):
        await pool.run(lambda: "refused")
    release.set()
    assert await next_one == "done"
    await pool.close()


async def test_an_error_reaches_its_caller_and_frees_the_thread():
    pool = WorkPool(1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    assert await pool.run(lambda: 1) == 1
    await pool.close()


async def test_closing_waits_for_what_runs():
    pool = WorkPool(1)
    release, ended = threading.Event(), threading.Event()
    task = asyncio.create_task(pool.run(lambda: (release.wait(10), ended.set())))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    assert not closing.done()
    release.set()
    await closing
    assert ended.is_set()
    await task


async def test_small_work_is_done_at_once_and_large_work_in_a_thread():
    pool = WorkPool(1)
    here = threading.get_ident()
    assert await pool.run_if_large(1, threading.get_ident) == here
    assert await pool.run_if_large(2**20, threading.get_ident) != here
    await pool.close()
