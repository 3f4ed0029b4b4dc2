"""How calls are named and described in traces, by OpenTelemetry's conventions for RPCs.

https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

from __future__ import annotations

from rpc.tracing.span import Attributes

ERROR_TYPE = "error.type"
STATUS_CODE = "rpc.response.status_code"
# What is a fault of who was asked; the others are answers.
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def rpc_name(method: str) -> str:
    """The span's name, of a method as gRPC has it: "/tokenmill.v1.WorkerService/Generate"."""
    return method.removeprefix("/")


def rpc_attributes(method: str) -> Attributes:
    """What is known of such a span from the beginning."""
    return {"rpc.system.name": "grpc", "rpc.method": rpc_name(method)}
