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
from types import AsyncGeneratorType, FrameType, GeneratorType

MAX_THREADS = 500
MAX_FRAMES = 50  # of one stack, the newest
# That are looked at: each costs some 20 µs of the event loop, and calls wait meanwhile.
MAX_TASKS = 5_000
MAX_STACKS = 200  # of tasks; thousands of calls stand at a few places
_NAMES: dict[type, tuple[str, str]] = {
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
}
_WRAPPERS = frozenset({"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"})


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
    places: Counter[tuple[object, ...]] = Counter()
    frames_at: dict[tuple[object, ...], list[FrameType]] = {}
    for task in islice(alive, MAX_TASKS):
        frames = list(_awaiting(task.get_coro()))
        # Lines are looked up below, once for each place.
        place = tuple((frame.f_code, frame.f_lasti) for frame in frames)
        places[place] += 1
        frames_at[place] = frames
    shown = [
        {"tasks": count, "frames": [_place(frame) for frame in frames_at[place][: -MAX_FRAMES - 1 : -1]]}
        for place, count in places.most_common(MAX_STACKS)
    ]
    left_out = len(alive) - sum(count for _, count in places.most_common(MAX_STACKS))
    return {"count": len(alive), "left_out": left_out, "stacks": shown}


def _frames_of_thread(frame: FrameType | None) -> list[str]:
    frames: list[str] = []
    while frame is not None and len(frames) < MAX_FRAMES:
        frames.append(_place(frame))
        frame = frame.f_back
    return frames


def _awaiting(outermost: object) -> Iterator[FrameType]:
    """The frames of a coroutine, of what it awaits, and so on. `Task.get_stack` has the first of these only."""
    awaited: object = outermost
    for _ in range(10 * MAX_FRAMES):  # a chain of awaits has an end; whoever reads this should not have to trust that
        frame_name, next_name = _NAMES.get(type(awaited), ("cr_frame", "cr_await"))  # gRPC's own coroutines have these
        if frame := getattr(awaited, frame_name, None):
            yield frame
        awaited = getattr(awaited, next_name, None) or _wrapped(awaited)
        if awaited is None:
            return


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
