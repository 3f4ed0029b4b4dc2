"""What a service is to the lifecycle that all of them share, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc
from prometheus_client import CollectorRegistry

from rpc.health import Health
from rpc.interceptor import Metadata
from rpc.running_calls import RunningCalls
from rpc.tls.expiry import CertificateMetrics
from rpc.tls.server import ServerTls


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service that answers on a port of its own shares with the gRPC server."""

    running: RunningCalls  # where its calls are counted, for the shutdown to wait for
    health: Health
    port: int  # that gRPC listens on
    registry: CollectorRegistry  # for its metrics
    certificates: CertificateMetrics  # for those that it shows to others
    tls: ServerTls | None = None  # for its port, too


class Service(Protocol):
    """What a service adds to the shared lifecycle."""

    @property
    def name(self) -> str:
        """Which of ours it is, such as "gateway"."""
        ...

    @property
    def full_name(self) -> str:
        """The gRPC service's full name, such as "tokenmill.v1.WorkerService"."""
        ...

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer; until `start` has returned it answers UNAVAILABLE."""
        ...

    def check_caller(self, metadata: Metadata) -> None:
        """Refuse a call, other than of health, whose caller may call nothing here. Errors: ServiceError."""
        ...

    async def listen(self, surroundings: Surroundings) -> None:
        """Listen on ports of its own, if it has any, before it is ready. Errors: StartError."""
        ...

    async def start(self) -> None:
        """Load and warm up; the service is ready when this returns. Cancelled if told to stop. Errors: StartError."""
        ...

    async def wait_broken(self) -> str:
        """Return a sentence once the service cannot go on; never return otherwise."""
        ...

    def describe(self) -> Mapping[str, object]:
        """What it serves and with what, as values that JSON has, for whoever operates it; while it loads, too."""
        ...

    def stop_accepting(self) -> None:
        """Refuse new calls from now on; running ones go on."""
        ...

    async def close(self) -> None:
        """Free everything, child processes too. No call is running any more; `start` may not have got far."""
        ...
