"""Spans for OpenTelemetry, sent by OTLP over gRPC. Needs the extra `otel`; what a service does without it, `span` has.

How they are sampled, batched and sent is left to the library's own variables, such as OTEL_TRACES_SAMPLER,
OTEL_BSP_MAX_QUEUE_SIZE (2,048: what is beyond is dropped) and OTEL_EXPORTER_OTLP_HEADERS:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import threading
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as LibrarySpan
from opentelemetry.trace import Tracer as LibraryTracer

from rpc.tracing.calls import ERROR_TYPE
from rpc.tracing.span import NOTHING, Attributes, Kind, Span
from rpc.tracing.trace_context import TraceContext

SCOPE = "tokenmill"
# For what has been collected, at the end of a service: a collector that does not answer must not hold it up.
FLUSH_SECONDS = 2.0
_KINDS = {Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT, Kind.INTERNAL: SpanKind.INTERNAL}


class OtelTracer:
    """Owns what collects the spans of one service and the thread that sends them."""

    def __init__(self, endpoint: str, service: str) -> None:
        """`endpoint`: http:// or https://, host and port; `service`: unless OTEL_SERVICE_NAME says otherwise."""
        own = Resource.create({"service.name": service, "service.version": version("tokenmill")})
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(SCOPE)

    def start(self, name: str, parent: TraceContext | None, attributes: Attributes = NOTHING) -> Span:
        """Start what a caller asked for."""
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)), Context())
        return OtelSpan(self._tracer, self._tracer.start_span(name, context, SpanKind.SERVER, attributes))

    def close(self) -> None:
        """Send what has been collected, for two seconds at most."""
        # The library's own limit is half a minute, and cannot be chosen.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)
        if sending.is_alive():
            self._exporter.shutdown()


class OtelSpan:
    """One of the library's."""

    def __init__(self, tracer: LibraryTracer, span: LibrarySpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def context(self) -> TraceContext:
        """As W3C has it."""
        own = self._span.get_span_context()
        state = own.trace_state.to_header() if own.trace_state else ""
        return TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", int(own.trace_flags), state)

    @property
    def is_recording(self) -> bool:
        """Whether it is sampled."""
        return self._span.is_recording()

    def child(self, name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes = NOTHING) -> Span:
        """Start a part of it."""
        within = set_span_in_context(self._span, Context())
        return OtelSpan(self._tracer, self._tracer.start_span(name, within, _KINDS[kind], attributes))

    def past_child(self, name: str, began_ns: int, ended_ns: int, attributes: Attributes = NOTHING) -> None:
        """Tell of a part of it that is over."""
        within = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, within, SpanKind.INTERNAL, attributes, start_time=began_ns)
        span.end(ended_ns)

    def set(self, attributes: Attributes) -> None:
        """Tell more of it."""
        self._span.set_attributes(attributes)

    def end(self, error: str = "") -> None:
        """It is over."""
        if error:
            self._span.set_attribute(ERROR_TYPE, error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _remote(parent: TraceContext) -> SpanContext:
    return SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState.from_header([parent.state]),
    )
