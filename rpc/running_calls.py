"""The RPCs that are being handled, for the shutdown to wait for and to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from rpc.errors import ServiceError, unavailable
from rpc.metrics import CallMetrics
from rpc.tracing.span import NoTracer, Tracer

# How long a cancelled handler may take to clean up.
CLEAN_UP_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class RunningCall:
    """One RPC, as far as the shutdown has to know it."""

    task: asyncio.Future[object]  # done when it has ended; cancelling it ends it
    is_work: bool  # false for a subscription without an end of its own, which nobody waits for
    interruption: ServiceError | None = None  # what its caller is told if the shutdown ends it


@dataclass(slots=True)
class RunningCalls:
    """Owned by the event loop."""

    metrics: CallMetrics = field(default_factory=CallMetrics)  # of those that have ended
    tracer: Tracer = field(default_factory=NoTracer)  # for those that begin
    _calls: set[RunningCall] = field(default_factory=set)

    @contextmanager
    def entered(self, *, is_work: bool) -> Iterator[RunningCall]:
        """Count the current task as a running call for the body."""
        task = asyncio.current_task()
        assert task is not None, "RPCs are handled in tasks"
        call = RunningCall(task, is_work)
        self.add(call)
        CURRENT_CALLS.set(self)
        try:
            yield call
        finally:
            self.discard(call)

    @property
    def working_calls(self) -> int:
        """How many do work."""
        return sum(call.is_work for call in self._calls)

    def add(self, call: RunningCall) -> None:
        """Count `call`."""
        self._calls.add(call)

    def discard(self, call: RunningCall) -> None:
        """Count it no more."""
        self._calls.discard(call)

    async def finish(self, grace_seconds: float) -> int:
        """Wait until no call does work any more, at most `grace_seconds`; then end what is left, subscriptions too.

        Returns how many calls that did work were ended.
        """
        # One turn of the loop, in which watches of health begin to send what they last were told.
        await asyncio.sleep(0)
        await _ended([call.task for call in self._calls if call.is_work], grace_seconds)
        left = list(self._calls)
        for call in left:
            call.interruption = unavailable("SHUTTING_DOWN", "the service is shutting down")
            call.task.cancel()
        await _ended([call.task for call in left], CLEAN_UP_SECONDS)
        return sum(call.is_work for call in left)


# Those of the server that handles the current RPC, for work that is no RPC of its own.
CURRENT_CALLS: ContextVar[RunningCalls] = ContextVar("tokenmill_running_calls")


async def _ended(tasks: list[asyncio.Future[object]], timeout_seconds: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_seconds)
