"""`grpc.health.v1`: what this process says about itself.

`liveness` is SERVING once the event loop runs; `readiness`, the empty name and the service's own name only after a
warm-up token was really made, not while an operator has drained it, and no longer from the first SIGTERM on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from rpc.errors import ServiceError

LIVENESS = "liveness"
READINESS = "readiness"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """The servicer of `grpc.health.v1`. Owns the states of this process; used by the event loop only.

    Our own, because the library's servicer holds a lock while it writes to a watcher: one that has stopped reading
    would keep readiness from being switched off.
    """

    def __init__(self, service_name: str) -> None:
        self._ready_names = ("", READINESS, service_name)
        self._states = dict.fromkeys((LIVENESS, *self._ready_names), NOT_SERVING)
        self._changed = asyncio.Event()
        self._is_able = False
        self.is_drained = False  # by an operator

    def set_live(self) -> None:
        """The loop runs and answers, ready or not."""
        self._set([LIVENESS], SERVING)

    def set_ready(self, *, ready: bool) -> None:
        """Tell probes and watchers whether calls are welcome, unless it is drained."""
        self._is_able = ready
        self._tell_readiness()

    def set_drained(self, *, drained: bool) -> None:
        """Tell them that calls are not welcome although they would be answered, or take that back."""
        self.is_drained = drained
        self._tell_readiness()

    @property
    def is_ready(self) -> bool:
        """Whether calls are welcome."""
        return bool(self._states[READINESS] == SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The state of one name now. Errors: NOT_FOUND for a name that this process does not know."""
        if request.service not in self._states:
            raise ServiceError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_SERVICE", "no service of this name", field="service")
        return health_pb2.HealthCheckResponse(status=self._states[request.service])

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        """The states of all names now."""
        states = {name: health_pb2.HealthCheckResponse(status=state) for name, state in self._states.items()}
        return health_pb2.HealthListResponse(statuses=states)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state of one name: now, and at each change. A slow watcher misses states in between, never the last."""
        sent = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, SERVICE_UNKNOWN)
            if state != sent:
                yield health_pb2.HealthCheckResponse(status=state)
                sent = state
            await changed.wait()

    def _tell_readiness(self) -> None:
        self._set(self._ready_names, SERVING if self._is_able and not self.is_drained else NOT_SERVING)

    def _set(self, names: list[str] | tuple[str, ...], state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        self._states.update(dict.fromkeys(names, state))
        self._changed.set()
        self._changed = asyncio.Event()
