"""The tracer that the settings ask for."""

from __future__ import annotations

import re

from rpc.start_error import StartError
from rpc.tracing.span import NoTracer, Tracer

_ENDPOINT = re.compile(r"https?://[^/\s]+/?")


def tracer_for(endpoint: str | None, service: str) -> Tracer:
    """One that sends to `endpoint`, or none. Errors: StartError."""
    if endpoint is None:
        return NoTracer()
    if not _ENDPOINT.fullmatch(endpoint):
        raise StartError("--otlp-traces-endpoint: must be http:// or https://, a host and a port")
    try:
        from rpc.tracing.otel import OtelTracer  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise StartError("--otlp-traces-endpoint: needs OpenTelemetry: pip install 'tokenmill[otel]'") from None
    return OtelTracer(endpoint, service)
