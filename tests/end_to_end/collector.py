"""A collector of OpenTelemetry traces: a real server, for real exporters."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it was sent."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int  # SPAN_KIND_…
    began_ns: int
    ended_ns: int
    is_error: bool
    attributes: dict[str, Any]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Whatever it was sent; `raw` as it came over the wire."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.raw: list[bytes] = []
        self.spans: list[CollectedSpan] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.raw.append(request.SerializeToString())
        for of_service in request.resource_spans:
            service = _values(of_service.resource.attributes)["service.name"]
            self.spans += [_collected(service, span) for of_scope in of_service.scope_spans for span in of_scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, service: str, name: str) -> list[CollectedSpan]:
        """Of a service, in the order in which they began."""
        found = [span for span in self.spans if (span.service, span.name) == (service, name)]
        return sorted(found, key=lambda span: span.began_ns)

    def of_trace(self, trace_id: str) -> list[CollectedSpan]:
        """All of them."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def one(self, service: str, name: str) -> CollectedSpan:
        """The only one there is of this name."""
        found = self.named(service, name)
        assert len(found) == 1, (service, name, sorted({(span.service, span.name) for span in self.spans}))
        return found[0]


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """One that listens; its server has a thread of its own, as exporters block theirs."""
    collecting = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collecting, server)
    collecting.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collecting
    finally:
        await asyncio.to_thread(server.stop(grace=None).wait)


def _collected(service: str, span: Any) -> CollectedSpan:
    return CollectedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
