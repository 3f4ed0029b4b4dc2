"""What Ctrl-C, SIGTERM and a closed terminal do to a command: it is cancelled, cleans up, and ends with a code."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run `work` and return its exit code, or 128 + the number of the signal that cancelled it.

    Each signal cancels once more: a second one cuts short the clean-up that the first has begun.
    """
    return asyncio.run(_run(work))


@contextmanager
def stopped_by_ctrl_c(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Have Ctrl-C call `stop`, in a thread of its own, instead of raising KeyboardInterrupt; yields whether it did.

    That exception is raised wherever the main thread is, a callback of a library included, which would swallow it.
    """
    pressed = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        pressed.set()
        threading.Thread(target=stop, daemon=True).start()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


async def _run(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.create_task(work)
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in INTERRUPTS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
