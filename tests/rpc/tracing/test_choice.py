"""Which tracer the settings mean."""

from __future__ import annotations

import sys

import pytest

from rpc.start_error import StartError
from rpc.tracing.choice import tracer_for
from rpc.tracing.span import NoTracer, PassedOn
from rpc.tracing.trace_context import TraceContext

CONTEXT = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://collector:4317", "http://", "http://collector/path"])
def test_an_address_that_is_none_is_refused_by_its_option(endpoint):
    with pytest.raises(StartError, match="--otlp-traces-endpoint: must be"):
        tracer_for(endpoint, "tokenmill-gateway")


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rpc.tracing.otel", None)  # as if it could not be imported
    with pytest.raises(StartError, match=r"tokenmill\[otel\]"):
        tracer_for("http://collector:4317", "tokenmill-gateway")


def test_the_service_is_named_unless_the_librarys_own_variable_does(monkeypatch):
    from rpc.tracing.otel import OtelTracer

    def name_of(tracer):
        tracer.close()
        return tracer._provider.resource.attributes["service.name"]

    assert name_of(OtelTracer("http://127.0.0.1:9", "tokenmill-gateway")) == "tokenmill-gateway"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert name_of(OtelTracer("http://127.0.0.1:9", "tokenmill-gateway")) == "mine"


def test_without_an_endpoint_spans_pass_on_what_the_caller_told():
    tracer = tracer_for(None, "tokenmill-gateway")
    assert isinstance(tracer, NoTracer)
    span = tracer.start("call", CONTEXT)
    assert isinstance(span, PassedOn)
    assert span.child("part").context == CONTEXT
    assert tracer.start("call", None).context is None
