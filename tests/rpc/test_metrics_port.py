"""The port that every service has for those who watch it."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc.errors import queue_full
from rpc.metrics import MAX_REASONS, CallMetrics, make_registry, text_of
from rpc.metrics_port import MAX_CONNECTIONS
from rpc.start_error import StartError
from tests.rpc.scripted_service import GENERATE, ScriptedService, channel_to, connected, settings
from tests.serving import RunningServer, listening
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

METRICS = {"metrics_port": 0}


def client_of(server: RunningServer) -> httpx2.AsyncClient:
    assert server.metrics_port is not None
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.metrics_port.port}", trust_env=False)


async def test_calls_are_counted_by_method_and_code() -> None:
    async with connected(ScriptedService(), **METRICS) as (server, channel), client_of(server) as client:
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(3):
            await stub.Generate(gateway_pb2.GenerateRequest())
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        response = await client.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = response.text.splitlines()
        assert f'tokenmill_calls_total{{code="OK",method="{GENERATE}"}} 3.0' in lines
        assert f'tokenmill_call_seconds_count{{method="{GENERATE}"}} 3.0' in lines
        assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
        assert any(line.startswith("tokenmill_event_loop_lag_seconds_count ") for line in lines)


async def test_a_method_that_is_not_there_is_no_label() -> None:
    async with connected(ScriptedService(), **METRICS) as (server, channel), client_of(server) as client:
        for number in range(5):
            with pytest.raises(Exception, match="no method of this name"):
                await channel.unary_unary(f"/made.up/Method{number}")(b"")
        told = (await client.get("/metrics")).text
        assert 'tokenmill_calls_total{code="UNIMPLEMENTED",method="unknown"} 5.0' in told
        assert "made.up" not in told


async def test_calls_that_fail_are_counted_by_the_reason_of_their_error() -> None:
    async def refuse(request: object, context: object) -> object:
        raise queue_full("the queue", 1.0)

    async with connected(ScriptedService(generate=refuse), **METRICS) as (server, channel), client_of(server) as client:
        for _ in range(2):
            with pytest.raises(Exception, match="RESOURCE_EXHAUSTED"):
                await gateway_pb2_grpc.InferenceServiceStub(channel).Generate(gateway_pb2.GenerateRequest())
        told = (await client.get("/metrics")).text.splitlines()
        assert [line for line in told if line.startswith("tokenmill_call_errors_total")] == [
            'tokenmill_call_errors_total{reason="QUEUE_FULL"} 2.0'
        ]


def test_however_many_reasons_those_behind_it_make_up_there_are_so_many_labels() -> None:
    metrics = CallMetrics()
    for number in (*range(3 * MAX_REASONS), 0):
        metrics.end("m", "INTERNAL", 0.1, f"REASON_{number}")
    told = text_of(make_registry(metrics)).decode().splitlines()
    errors = dict(line.rsplit(" ", 1) for line in told if line.startswith("tokenmill_call_errors_total"))
    assert len(errors) == MAX_REASONS + 1
    assert errors['tokenmill_call_errors_total{reason="OTHER"}'] == f"{2 * MAX_REASONS}.0"
    assert errors['tokenmill_call_errors_total{reason="REASON_0"}'] == "2.0"


async def test_it_says_what_runs_and_whether_that_takes_calls() -> None:
    loaded, service = asyncio.Event(), ScriptedService()

    async def load() -> None:
        await loaded.wait()

    service.start = load
    async with listening(service, settings(**METRICS)) as server:
        assert _state(server) == {"ready": "0.0", "draining": "0.0"}
        loaded.set()
        await server.ready.wait()
        assert _state(server) == {"ready": "1.0", "draining": "0.0"}
        build = f'tokenmill_build_info{{service="scripted",version="{version("tokenmill")}"}} 1.0'
        assert build in text_of(server.registry).decode().splitlines()
        server.stop()
        await asyncio.wait({server.life})
        assert _state(server) == {"ready": "0.0", "draining": "1.0"}


def _state(server: RunningServer) -> dict[str, str]:
    lines = [line.split() for line in text_of(server.registry).decode().splitlines() if not line.startswith("#")]
    told = {line[0]: line[1] for line in lines if len(line) == 2}
    return {name: told[f'tokenmill_{name}{{service="scripted"}}'] for name in ("ready", "draining")}


async def test_health_over_http_is_that_of_grpc() -> None:
    loaded = asyncio.Event()

    async def load() -> None:
        await loaded.wait()

    service = ScriptedService(start=load)
    async with listening(service, settings(**METRICS)) as server, client_of(server) as client:
        assert [(await client.get(path)).status_code for path in ("/health", "/ready")] == [200, 503]
        loaded.set()
        await server.ready.wait()
        assert [(await client.get(path)).status_code for path in ("/health", "/ready", "/other")] == [200, 200, 404]
        assert (await client.post("/ready")).status_code == 405
        assert (await client.head("/ready")).content == b""


async def test_a_port_that_is_taken_keeps_the_service_from_starting() -> None:
    async with connected(ScriptedService(), **METRICS) as (server, _):
        assert server.metrics_port is not None
        with pytest.raises(StartError, match="cannot listen on"):
            async with listening(ScriptedService(), settings(metrics_port=server.metrics_port.port)):
                pass


async def test_connections_are_bounded() -> None:
    async with connected(ScriptedService(), **METRICS) as (server, _):
        assert server.metrics_port is not None
        where = "127.0.0.1", server.metrics_port.port
        opened = [await asyncio.open_connection(*where) for _ in range(MAX_CONNECTIONS + 1)]
        assert (await opened[-1][0].read()).startswith(b"HTTP/1.1 503")
        for _, writer in opened:
            writer.transport.abort()


async def test_without_the_option_there_is_no_port() -> None:
    async with channel_to() as _, connected(ScriptedService()) as (server, _):
        assert server.metrics_port is None
