"""`grpc.health.v1`: what this process says about itself.

`liveness` is SERVING once the event loop runs; `readiness`, the empty name and the service's own name only after a
warm-up token was really made, and no longer from the first SIGTERM on.
"""

from __future__ import annotations

from grpc_health.v1 import health_pb2
from grpc_health.v1.health.aio import HealthServicer

LIVENESS = "liveness"
READINESS = "readiness"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Owns the health servicer; used by the event loop only."""

    def __init__(self, service_name: str) -> None:
        self.servicer = HealthServicer()
        self._ready_names = ("", READINESS, service_name)

    async def set_live(self) -> None:
        """The loop runs and answers, ready or not."""
        await self.servicer.set(LIVENESS, SERVING)
        await self.set_ready(ready=False)

    async def set_ready(self, *, ready: bool) -> None:
        """Tell probes and watchers whether calls are welcome."""
        for name in self._ready_names:
            await self.servicer.set(name, SERVING if ready else NOT_SERVING)
