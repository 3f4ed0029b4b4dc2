"""Where threads and tasks stand: modules, lines and functions. Never a variable's value, which could be a prompt."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePath
from types import FrameType
from typing import Any

MAX_THREADS = 500
MAX_FRAMES = 50  # of one stack, the newest
# That are looked at: a task costs some 10 µs of the event loop, and calls wait meanwhile.
MAX_TASKS = 10_000
_WRAPPERS = frozenset({"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"})
MAX_STACKS = 200  # of tasks; thousands of calls stand at a few places


def threads() -> dict[str, object]:
    """Every thread that Python knows, newest frame first. Those of libraries in C++ are not among them."""
    frames = sys._current_frames()  # noqa: SLF001 - there is no other way, and the library's own dump uses it
    alive = sorted(threading.enumerate(), key=lambda thread: thread.name)
    shown = [
        {
            "name": thread.name,
            "native_id": thread.native_id,
            "daemon": thread.daemon,
            "frames": _frames_of_thread(frames.get(thread.ident or 0)),
        }
        for thread in alive[:MAX_THREADS]
    ]
    return {"count": len(alive), "threads": shown}


def tasks() -> dict[str, object]:
    """The tasks of the running event loop by where they wait, newest frame first; most tasks first."""
    alive = asyncio.all_tasks()
    places = Counter(tuple(_frames_of_task(task)) for task in islice(alive, MAX_TASKS))
    shown = [{"tasks": tasks, "frames": list(frames)} for frames, tasks in places.most_common(MAX_STACKS)]
    left_out = len(alive) - sum(count for _, count in places.most_common(MAX_STACKS))
    return {"count": len(alive), "left_out": left_out, "stacks": shown}


def _frames_of_thread(frame: FrameType | None) -> list[str]:
    frames: list[str] = []
    while frame is not None and len(frames) < MAX_FRAMES:
        frames.append(_place(frame))
        frame = frame.f_back
    return frames


def _frames_of_task(task: asyncio.Task[Any]) -> list[str]:
    """From where it waits to where it began. `Task.get_stack` has the last of these only."""
    frames = [_place(frame) for frame in _awaiting(task.get_coro())]
    return frames[: -MAX_FRAMES - 1 : -1]


def _awaiting(outermost: object) -> Iterator[FrameType]:
    """The frames of a coroutine, of what it awaits, and so on."""
    awaited: object = outermost
    for _ in range(10 * MAX_FRAMES):  # a chain of awaits has an end; whoever reads this should not have to trust that
        if frame := _attribute(awaited, "frame"):
            yield frame
        awaited = _attribute(awaited, "await") or _attribute(awaited, "yieldfrom") or _wrapped(awaited)
        if awaited is None:
            return


def _attribute(awaited: object, name: str) -> Any:
    """Of a coroutine, a generator or an asynchronous generator, which have it by different names."""
    return next((value for kind in ("cr", "gi", "ag") if (value := getattr(awaited, f"{kind}_{name}", None))), None)


def _wrapped(awaited: object) -> object | None:
    """What is behind an asynchronous generator's next value, or `__await__`: only the garbage collector knows it."""
    if type(awaited).__name__ not in _WRAPPERS:
        return None
    behind = gc.get_referents(awaited)
    return next((one for one in behind if inspect.isasyncgen(one) or inspect.iscoroutine(one)), None)


def _place(frame: FrameType) -> str:
    code = frame.f_code
    # gRPC's own are compiled: they have neither a module nor a line.
    module = frame.f_globals.get("__name__") or PurePath(code.co_filename).name
    return f"{module}:{frame.f_lineno or code.co_firstlineno} {code.co_qualname}"
