"""What can go wrong in the fake engine, or hold it up: small callables that it asks before each step."""

from __future__ import annotations

import collections.abc
import threading
import time
from typing import Protocol

from model_worker.engine import OutOfMemory, RowFailure, Segment


class Fault(Protocol):
    """Asked before each step, on the generation thread. `step` counts from 1, refused steps included."""

    def __call__(self, step: int, segments: collections.abc.Sequence[Segment]) -> dict[int, RowFailure] | None:
        """May block, raise what the engine is to raise, or name the segments that fail (by index)."""
        ...


def failures_of(
    faults: collections.abc.Sequence[Fault], step: int, segments: collections.abc.Sequence[Segment]
) -> dict[int, RowFailure]:
    """Ask every fault; return the segments that fail, by index. Errors: what a fault raises."""
    failures: dict[int, RowFailure] = {}
    for fault in faults:
        failures |= fault(step, segments) or {}
    return failures


def raise_at(faulty_step: int, error: Exception) -> Fault:
    """Raise `error` at one step."""

    def fault(step: int, segments: collections.abc.Sequence[Segment]) -> None:  # noqa: ARG001 - Fault's signature
        if step == faulty_step:
            raise error

    return fault


def memory_for(tokens: int) -> Fault:
    """Run out of memory at every step of more than `tokens`."""

    def fault(step: int, segments: collections.abc.Sequence[Segment]) -> None:  # noqa: ARG001 - Fault's signature
        if sum(segment.length for segment in segments) > tokens:
            raise OutOfMemory

    return fault


def seconds_per_step(seconds: float, for_each_token: float = 0.0) -> Fault:
    """Make every step take so long, and longer the more tokens it has."""

    def fault(step: int, segments: collections.abc.Sequence[Segment]) -> None:  # noqa: ARG001 - Fault's signature
        time.sleep(seconds + for_each_token * sum(segment.length for segment in segments))

    return fault


def fail_rows(failure: RowFailure, when: collections.abc.Callable[[int, Segment], bool]) -> Fault:
    """Fail every segment for which `when(step, segment)` holds; the others of the step are computed."""

    def fault(step: int, segments: collections.abc.Sequence[Segment]) -> dict[int, RowFailure]:
        return {index: failure for index, segment in enumerate(segments) if when(step, segment)}

    return fault


class Gate:
    """Holds every step up until it is allowed: a test then knows exactly how far the engine is."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._allowed: float = 0  # steps; infinity once opened
        self._standing = False

    def __call__(self, step: int, segments: collections.abc.Sequence[Segment]) -> None:  # noqa: ARG002 - Fault's signature
        """Wait for a step to be allowed, and use it up."""
        with self._changed:
            self._standing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._allowed > 0)
            self._standing = False
            self._allowed -= 1

    def allow(self, steps: float) -> None:
        """Let so many more steps pass."""
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything pass from now on."""
        self.allow(float("inf"))

    def wait_until_reached(self, timeout_seconds: float = 10.0) -> None:
        """Block until a step stands at the gate and no allowed one is left. Errors: TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._standing and self._allowed == 0, timeout_seconds):
                raise TimeoutError("no step reached the gate")
