"""How a service lives and ends: in this process, and in one of its own that gets real signals."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc.health import NOT_SERVING, SERVING
from rpc.lifecycle import EXIT_FAILED, EXIT_OK, Server
from rpc.start_error import StartError
from rpc.status import from_rpc_error
from tests.processes import process
from tests.rpc.scripted_service import ScriptedService, connected, settings
from tests.serving import listening, serving
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.processes import Process

CROWD = 300
REQUEST = gateway_pb2.GenerateRequest()
ECHO = worker_pb2.WorkerServiceGenerateRequest(stop_row=worker_pb2.StopRow(row=1))


async def until_failure(attempt: Callable[[], Awaitable[object]]) -> grpc.aio.AioRpcError:
    """What the first of repeated attempts that fails fails with."""
    while True:
        try:
            await attempt()
        except grpc.aio.AioRpcError as error:
            return error


class TestEndOfCalls:
    async def test_a_running_call_finishes_within_the_grace(self):
        entered, finish = asyncio.Event(), asyncio.Event()

        async def wait(request, context):
            entered.set()
            await finish.wait()
            return gateway_pb2.GenerateResponse()

        service = ScriptedService(generate=wait)
        async with connected(service) as (server, channel):
            call = gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST)
            await entered.wait()
            server.stop()
            health = health_pb2_grpc.HealthStub(channel)
            await until_failure(lambda: health.Check(health_pb2.HealthCheckRequest()))  # closed before the call is over
            assert service.ends == ["stop accepting"]
            finish.set()
            assert await call == gateway_pb2.GenerateResponse()
            assert await server.life == EXIT_OK
        assert service.ends == ["stop accepting", "close"]

    async def test_a_stream_that_outlasts_the_grace_ends_with_a_retryable_status(self):
        closed = asyncio.Event()

        async def talk(request, context):
            try:
                yield gateway_pb2.StreamGenerateResponse()
                await asyncio.Event().wait()
            finally:
                closed.set()

        async with connected(ScriptedService(stream_generate=talk), grace_seconds=0.05) as (server, channel):
            call = gateway_pb2_grpc.InferenceServiceStub(channel).StreamGenerate(REQUEST)
            await call.read()
            server.stop()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert closed.is_set()
            assert await server.life == EXIT_OK
        error = from_rpc_error(caught.value, "the gateway")
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert error.retry_after_seconds
        assert "x-request-id" in dict(caught.value.trailing_metadata())

    async def test_a_stream_whose_caller_has_stopped_reading_does_not_hold_the_shutdown_up(self, monkeypatch):
        monkeypatch.setattr("rpc.running_calls.CLEAN_UP_SECONDS", 0.1)
        monkeypatch.setattr("rpc.lifecycle.CLEAN_UP_SECONDS", 0.1)
        delta = gateway_pb2.StreamGenerateResponse(delta=gateway_pb2.Delta(text="x" * 2**20))
        closed = asyncio.Event()

        async def flood(request, context):
            try:
                while True:
                    yield delta
            finally:
                closed.set()

        async with connected(ScriptedService(stream_generate=flood), grace_seconds=0.1) as (server, channel):
            call = gateway_pb2_grpc.InferenceServiceStub(channel).StreamGenerate(REQUEST)
            await call.read()
            server.stop()
            assert await server.life == EXIT_OK
            assert closed.is_set()
            error = await until_failure(call.read)
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    async def test_calls_that_have_come_in_before_the_stop_are_answered_though_nobody_had_taken_them_yet(self):
        async with connected(ScriptedService()) as (server, channel):
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            await stub.Generate(REQUEST)
            calls = [stub.Generate(REQUEST) for _ in range(CROWD)]
            await asyncio.sleep(0)  # sent now, though our server's loop, which is this one, has not seen any
            server.stop()
            assert await server.life == EXIT_OK
            assert {await call.code() for call in calls} == {grpc.StatusCode.OK}

    async def test_nobody_waits_for_a_watch_of_the_load(self):
        async def watch(request, context):
            yield worker_pb2.WatchLoadResponse()
            await asyncio.Event().wait()

        async with connected(ScriptedService(watch_load=watch), grace_seconds=3600) as (server, channel):
            call = worker_pb2_grpc.WorkerServiceStub(channel).WatchLoad(worker_pb2.WatchLoadRequest())
            await call.read()
            server.stop()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert await server.life == EXIT_OK
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_a_handler_that_does_not_want_to_end_is_left_behind(self, monkeypatch):
        monkeypatch.setattr("rpc.running_calls.CLEAN_UP_SECONDS", 0.05)
        monkeypatch.setattr("rpc.lifecycle.CLEAN_UP_SECONDS", 0.05)
        entered, let_go = asyncio.Event(), asyncio.Event()

        async def cling(request, context):
            entered.set()
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        async with connected(ScriptedService(generate=cling), grace_seconds=0) as (server, channel):
            call = gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST)
            await entered.wait()
            server.stop()
            assert await server.life == EXIT_OK
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            let_go.set()


class TestStart:
    async def test_a_taken_port_is_a_start_error_and_the_first_server_goes_on(self):
        async with serving(ScriptedService(), settings()) as port:
            second = ScriptedService()
            with pytest.raises(StartError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use"):
                await Server(second, settings(port=port)).run()
            assert second.ends == ["stop accepting", "close"]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST)

    async def test_a_port_that_is_taken_between_the_question_and_the_answer_is_a_start_error_too(self, monkeypatch):
        monkeypatch.setattr("rpc.lifecycle._try_bind", lambda host, port: None)
        async with serving(ScriptedService(), settings()) as port:
            with pytest.raises(StartError, match="cannot listen"):
                await Server(ScriptedService(), settings(port=port)).run()

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
    async def test_an_address_that_is_not_ours_is_a_start_error(self, host):
        with pytest.raises(StartError, match=f"cannot listen on {host}"):
            await Server(ScriptedService(), settings(host=host)).run()

    async def test_a_service_that_cannot_start_is_never_ready_and_is_closed(self):
        async def fail():
            raise StartError("no model")

        service = ScriptedService(start=fail)
        with pytest.raises(StartError, match="no model"):
            async with serving(service, settings()):
                raise AssertionError("it served")
        assert service.ends == ["stop accepting", "close"]

    async def test_a_stop_while_loading_cancels_the_start(self):
        cancelled = asyncio.Event()

        async def load():
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        service = ScriptedService(start=load)
        async with listening(service, settings(drain_seconds=600)) as server:
            server.stop()
            server.stop()
            assert await server.life == EXIT_OK
        assert cancelled.is_set()
        assert service.ends == ["stop accepting", "close"]

    async def test_a_broken_service_turns_not_ready_fails_and_does_not_drain(self):
        service = ScriptedService()
        async with connected(service, drain_seconds=600) as (server, channel):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            service.broken.set()
            assert (await watch.read()).status == NOT_SERVING
            assert await server.life == EXIT_FAILED
        assert service.ends == ["stop accepting", "close"]


def mill(behaviour: str, *flags: str) -> AbstractAsyncContextManager[Process]:
    """A mill in its own process."""
    return process("tests.rpc.mill_service", "--behaviour", behaviour, "--drain-seconds", "0", *flags)


@asynccontextmanager
async def ready_mill(*flags: str) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    async with mill("serve", *flags) as running:
        port = (await running.logged("ready"))["port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield running, channel


class TestSignals:
    async def test_sigterm_turns_readiness_off_first_and_lets_8_streams_finish(self):
        async with ready_mill() as (process, channel):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            calls = [worker_pb2_grpc.WorkerServiceStub(channel).Generate() for _ in range(8)]
            for call in calls:
                await call.write(ECHO)
                await call.read()
            process.signal(signal.SIGTERM)
            assert (await watch.read()).status == NOT_SERVING
            for call in calls:
                await call.write(ECHO)
                assert (await call.read()).events[0].row == 1
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
                assert await call.code() is grpc.StatusCode.OK
            assert await process.exit_code() == 0
        ended = [json.loads(line) for line in process.lines if '"stopped"' in line]
        assert [line["ended_calls"] for line in ended] == [0]
        assert all(line.startswith("{") for line in process.lines)

    async def test_a_call_beyond_the_grace_gets_a_retryable_status_and_the_process_still_exits_with_0(self):
        async with ready_mill("--grace-seconds", "0.1") as (process, channel):
            call = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
            await call.write(ECHO)
            await call.read()
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await process.exit_code() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_second_signal_exits_at_once(self, number):
        async with ready_mill("--grace-seconds", "3600") as (process, channel):
            call = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
            await call.write(ECHO)
            await call.read()
            process.signal(signal.SIGTERM)
            await process.logged("draining")
            process.signal(number)
            assert await process.exit_code() == 128 + number

    async def test_sigterm_while_a_thread_is_loading_exits_promptly_with_0(self):
        async with mill("load for ever") as process:
            await process.logged("listening")
            process.signal(signal.SIGTERM)
            assert await process.exit_code() == 0


class TestFailedStarts:
    async def test_a_start_error_is_one_line_and_exit_code_1(self):
        async with mill("start error") as process:
            assert await process.exit_code() == 1
        assert process.lines[-1] == "mill: the millstone is missing"
        assert [line for line in process.lines if not line.startswith("{")] == process.lines[-1:]

    async def test_an_exception_while_loading_is_logged_without_its_message_and_exit_code_1(self):
        async with mill("start exception") as process:
            assert await process.exit_code() == 1
        assert json.loads(process.lines[-1])["exception"] == "KeyError"
        assert "secret" not in "".join(process.lines)

    async def test_a_service_that_breaks_exits_with_1(self):
        async with mill("break") as process:
            assert await process.exit_code() == 1
        assert any(json.loads(line)["message"] == "broken" for line in process.lines)

    async def test_a_taken_port_is_one_line_and_exit_code_1(self):
        async with serving(ScriptedService(), settings()) as port, mill("serve", "--port", str(port)) as process:
            assert await process.exit_code() == 1
        lines = [line for line in process.lines if not line.startswith("{")]
        assert lines == [f"mill: cannot listen on 127.0.0.1:{port}: Address already in use"]

    async def test_an_unknown_option_is_one_line_and_exit_code_2(self):
        async with mill("serve", "--colour", "red") as process:
            assert await process.exit_code() == 2
        assert process.lines == ["mill: unrecognized arguments: --colour red"]
