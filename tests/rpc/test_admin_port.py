"""The port that every service has for whoever operates it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from model_worker.settings import WorkerSettings
from rpc.admin import port as admin_port
from rpc.admin import stacks
from rpc.admin.app import ROUTES
from rpc.admin.shown_settings import shown
from rpc.health import NOT_SERVING, SERVING
from rpc.lifecycle import EXIT_OK
from tests.end_to_end.test_connection_limits import connected as raw_connection
from tests.processes import process
from tests.rpc.scripted_service import ScriptedService, connected, settings
from tests.serving import RunningServer, listening
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ADMIN = {"admin_port": 0}
JSON = {"content-type": "application/json"}
READING = {"GET", "HEAD"}
MARKER = "a secret prompt"


def client_of(server: RunningServer) -> httpx2.AsyncClient:
    assert server.admin_port is not None
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port.port}", trust_env=False)


@asynccontextmanager
async def operated(**given: Any) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel, httpx2.AsyncClient]]:
    """A ready server of a scripted service with these settings, a channel to it, and a client of its admin port."""
    async with connected(ScriptedService(), **(ADMIN | given)) as (server, channel), client_of(server) as client:
        yield server, channel, client


async def health_of(channel: grpc.aio.Channel, name: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


class HeldCall:
    """A call that goes on until it is told to end."""

    def __init__(self) -> None:
        self._entered, self._finish = asyncio.Event(), asyncio.Event()
        self.service = ScriptedService(generate=self._wait)

    async def begin(self, channel: grpc.aio.Channel) -> asyncio.Task[Any]:
        """The task that gets its answer, once it runs."""
        generate = gateway_pb2_grpc.InferenceServiceStub(channel).Generate

        async def answer() -> Any:
            return await generate(gateway_pb2.GenerateRequest())

        task = asyncio.create_task(answer())
        await self._entered.wait()
        return task

    def end(self) -> None:
        self._finish.set()

    async def _wait(self, _request: object, _context: object) -> gateway_pb2.GenerateResponse:
        self._entered.set()
        await self._finish.wait()
        return gateway_pb2.GenerateResponse()


@pytest.fixture
def levels_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("tokenmill"), logging.getLogger("tokenmill.lifecycle")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


class TestWhoMayUseIt:
    @pytest.mark.parametrize(("method", "path"), ROUTES)
    async def test_every_route_refuses_a_name_that_is_not_this_machines(self, method: str, path: str) -> None:
        async with operated() as (server, channel, client):
            for host in (
                "mill.example",
                "127.0.0.1.mill.example",
                "localhost.mill.example:80",
                "127.0.0.1@x",
                "0.0.0.0",
            ):
                response = await client.request(method, path, headers={**JSON, "host": host})
                assert (response.status_code, "Host" in response.json()["error"]) == (421, True)
            assert await health_of(channel) == SERVING
            assert not server.health.is_drained

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    async def test_every_route_refuses_a_page(self, method: str, path: str) -> None:
        async with operated() as (_, channel, client):
            for header in ({"origin": "http://localhost:3000"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
                assert (await client.request(method, path, headers=JSON | header)).status_code == 403
            assert await health_of(channel) == SERVING

    @pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] not in READING])
    async def test_what_changes_something_wants_a_header_that_no_form_sends(self, method: str, path: str) -> None:
        async with operated() as (_, channel, client):
            for media_type in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                headers = {"content-type": media_type} if media_type else {}
                response = await client.request(method, path, headers=headers, content=b'{"level": "debug"}')
                assert (response.status_code, "content-type" in response.json()["error"]) == (415, True)
            assert await health_of(channel) == SERVING

    async def test_a_script_of_a_page_that_asks_first_is_told_no(self) -> None:
        async with operated() as (_, _, client):
            asking = {"origin": "http://mill.example", "access-control-request-method": "POST"}
            response = await client.request("OPTIONS", "/drain", headers=asking)
            assert response.status_code == 403
            assert not any(name.startswith("access-control") for name in response.headers)

    async def test_a_forwarded_port_and_other_names_of_this_machine_are_fine(self) -> None:
        async with operated() as (_, _, client):
            for host in ("localhost", "LOCALHOST:19191", "127.0.0.1:1", "[::1]:8080"):
                assert (await client.get("/", headers={"host": host})).status_code == 200
            assert (await client.get("/", headers={"sec-fetch-site": "none"})).status_code == 200  # typed by a person

    async def test_it_listens_on_this_machine_only_whatever_the_host(self) -> None:
        async with operated(host="0.0.0.0") as (server, _, _):
            assert server.admin_port is not None
            assert server.admin_port._server is not None
            [listener] = server.admin_port._server.servers
            assert [one.getsockname()[0] for one in listener.sockets] == ["127.0.0.1"]

    async def test_without_the_option_there_is_none(self) -> None:
        async with connected(ScriptedService()) as (server, _):
            assert server.admin_port is None


class TestItsBounds:
    async def test_a_body_that_is_too_large_is_refused(self) -> None:
        async with operated() as (_, _, client):
            response = await client.put("/loglevel", headers=JSON, content=b" " * (admin_port.MAX_BODY_BYTES + 1))
            assert response.status_code == 413

    async def test_so_is_one_that_does_not_come(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admin_port, "BODY_SECONDS", 0.05)
        async with operated() as (server, _, _):
            assert server.admin_port is not None
            async with raw_connection(server.admin_port.port) as (reader, writer):
                head = b"PUT /loglevel HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                writer.write(head + b"content-length: 10\r\n\r\n{")
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")

    async def test_connections_are_few(self) -> None:
        async with operated() as (server, _, client):
            assert (await client.get("/")).status_code == 200
            assert server.admin_port is not None
            opened = [
                await asyncio.open_connection("127.0.0.1", server.admin_port.port)
                for _ in range(admin_port.MAX_CONNECTIONS)
            ]
            assert (await opened[-1][0].read()).startswith(b"HTTP/1.1 503")
            for _, writer in opened:
                writer.transport.abort()

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/nowhere", 404), ("DELETE", "/loglevel", 405), ("POST", "/", 405), ("HEAD", "/drain", 200)],
    )
    async def test_what_there_is_not_is_said(self, method: str, path: str, status: int) -> None:
        async with operated() as (_, _, client):
            response = await client.request(method, path, headers=JSON)
            assert response.status_code == status
            assert (response.content == b"") == (method == "HEAD")


class TestDrain:
    async def test_a_drained_service_is_not_ready_and_answers_all_the_same_until_that_is_taken_back(self) -> None:
        async with operated(metrics_port=0) as (server, channel, client):
            assert server.metrics_port is not None
            ready = f"http://127.0.0.1:{server.metrics_port.port}/ready"
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            answer = (await client.post("/drain", headers=JSON)).json()
            assert answer == {"drained": True, "ready": False, "running_calls": 0}
            assert (await watch.read()).status == NOT_SERVING
            assert [await health_of(channel, name) for name in ("readiness", server.service.full_name, "liveness")] == [
                NOT_SERVING,
                NOT_SERVING,
                SERVING,
            ]
            assert (await client.get(ready)).status_code == 503
            await stub.Generate(gateway_pb2.GenerateRequest())
            answer = (await client.delete("/drain", headers=JSON)).json()
            assert answer == {"drained": False, "ready": True, "running_calls": 0}
            assert (await watch.read()).status == SERVING
            assert (await client.get(ready)).status_code == 200

    async def test_the_calls_that_run_are_counted(self) -> None:
        call = HeldCall()
        async with connected(call.service, **ADMIN) as (server, channel), client_of(server) as client:
            answer = await call.begin(channel)
            assert (await client.post("/drain", headers=JSON)).json()["running_calls"] == 1
            call.end()
            await answer
            assert (await client.get("/drain")).json()["running_calls"] == 0

    async def test_one_that_was_drained_while_it_loaded_is_not_ready_when_it_has(self) -> None:
        loaded = asyncio.Event()

        async def load() -> None:
            await loaded.wait()

        async with listening(ScriptedService(start=load), settings(**ADMIN)) as server, client_of(server) as client:
            await client.post("/drain", headers=JSON)
            loaded.set()
            await server.ready.wait()
            assert not server.health.is_ready
            assert (await client.delete("/drain", headers=JSON)).json()["ready"]

    async def test_a_shutdown_cannot_be_taken_back(self) -> None:
        call = HeldCall()
        async with connected(call.service, **ADMIN) as (server, channel), client_of(server) as client:
            answer = await call.begin(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            server.stop()
            assert (await watch.read()).status == NOT_SERVING
            await client.post("/drain", headers=JSON)
            assert not (await client.delete("/drain", headers=JSON)).json()["ready"]
            call.end()
            await answer
            assert await server.life == EXIT_OK

    async def test_a_drained_service_ends_as_any_other(self) -> None:
        async with operated() as (server, _, client):
            await client.post("/drain", headers=JSON)
            server.stop()
            assert await server.life == EXIT_OK


@pytest.mark.usefixtures("levels_as_before")
class TestLogLevel:
    async def test_all_of_ours_and_single_ones_can_be_set_and_libraries_stay_as_they_are(self) -> None:
        async with operated() as (_, _, client):
            response = await client.put("/loglevel", headers=JSON, json={"level": "debug"})
            assert (response.status_code, response.json()["level"]) == (200, "debug")
            assert logging.getLogger("tokenmill.lifecycle").isEnabledFor(logging.DEBUG)
            assert not logging.getLogger("uvicorn.error").isEnabledFor(logging.INFO)
            one = {"level": "error", "logger": "tokenmill.lifecycle"}
            assert (await client.put("/loglevel", headers=JSON, json=one)).json()["loggers"] == {
                "tokenmill.lifecycle": "error"
            }
            assert not logging.getLogger("tokenmill.lifecycle").isEnabledFor(logging.WARNING)
            await client.put("/loglevel", headers=JSON, json=one | {"level": None})
            levels = (await client.get("/loglevel")).json()
            assert (levels["level"], levels["loggers"]) == ("debug", {})
            assert "tokenmill.lifecycle" in levels["known_loggers"]

    @pytest.mark.parametrize(
        "body",
        [
            *("", "debug", "[]", "{}", '{"logger": "tokenmill"}', '{"level": "debug", "for": "ever"}'),
            *('{"level": "loud"}', '{"level": null}', '{"level": 10}', '{"level": ["debug"]}', '{"level": true}'),
            *('{"level": "debug", "logger": "uvicorn"}', '{"level": "debug", "logger": "tokenmill.made.up"}'),
            *(
                '{"level": "debug", "logger": ""}',
                '{"level": "debug", "logger": null}',
                '{"level": "debug", "logger": []}',
            ),
        ],
    )
    async def test_what_cannot_be_set_is_refused_and_changes_nothing(self, body: str) -> None:
        async with operated() as (_, _, client):
            before = (await client.get("/loglevel")).json()
            response = await client.put("/loglevel", headers=JSON, content=body.encode())
            assert (response.status_code, bool(response.json()["error"])) == (400, True)
            assert (await client.get("/loglevel")).json() == before


class TestWhatItShows:
    async def test_the_index_names_every_route(self) -> None:
        async with operated() as (server, _, client):
            told = (await client.get("/")).json()
            assert told["service"] == server.service.full_name
            assert told["routes"].keys() == {f"{method} {path}" for method, path in ROUTES}

    async def test_tasks_are_shown_where_they_stand_through_generators_and_without_what_they_hold(self) -> None:
        entered = asyncio.Event()

        async def innermost(text: str) -> AsyncIterator[str]:
            entered.set()
            await asyncio.Event().wait()
            yield text

        async def stream(request: object, _context: object) -> AsyncIterator[gateway_pb2.StreamGenerateResponse]:
            async for _ in innermost(MARKER + repr(request)):
                yield gateway_pb2.StreamGenerateResponse()

        service = ScriptedService(stream_generate=stream)
        async with connected(service, **ADMIN) as (server, channel), client_of(server) as client:
            request = gateway_pb2.GenerateRequest(model=MARKER)
            call = gateway_pb2_grpc.InferenceServiceStub(channel).StreamGenerate(request)
            await entered.wait()
            response = await client.get("/tasks")
            assert MARKER not in response.text
            told = response.json()
            [found] = [one for one in told["stacks"] if any("innermost" in frame for frame in one["frames"])]
            places = [frame.partition(":")[0] for frame in found["frames"]]
            assert places.index(__name__) < places.index("rpc.call")  # the newest first
            assert any("stream" in frame for frame in found["frames"])
            assert told["left_out"] == 0
            assert told["count"] >= sum(one["tasks"] for one in told["stacks"])
            call.cancel()

    async def test_thousands_of_tasks_at_one_place_are_one_entry(self) -> None:
        async def wait() -> None:
            await asyncio.Event().wait()

        waiting = [asyncio.create_task(wait()) for _ in range(3000)]
        async with operated() as (_, _, client):
            response = await client.get("/tasks")
            assert response.json()["stacks"][0]["tasks"] == 3000
            assert len(response.content) < 50_000
        for task in waiting:
            task.cancel()

    async def test_what_is_left_out_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stacks, "MAX_TASKS", 3)
        monkeypatch.setattr(stacks, "MAX_STACKS", 1)
        async with operated() as (_, _, client):
            told = (await client.get("/tasks")).json()
            [stack] = told["stacks"]
            assert stack["tasks"] + told["left_out"] == told["count"] > 3

    async def test_threads_are_shown_by_name_and_without_what_they_hold(self) -> None:
        release, entered = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(text: str) -> str:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
            return text

        async with operated() as (_, _, client):
            held = asyncio.create_task(asyncio.to_thread(hold, MARKER))
            await entered.wait()
            response = await client.get("/threads")
            release.set()
            await held
        assert MARKER not in response.text
        names = {thread["name"]: thread["frames"] for thread in response.json()["threads"]}
        assert any("rpc.admin.stacks:" in frame for frame in names["MainThread"])
        assert any(
            frame.startswith(f"{__name__}:") and "hold" in frame for frames in names.values() for frame in frames
        )

    async def test_settings_are_shown_as_they_hold(self) -> None:
        async with operated(grace_seconds=7) as (_, _, client):
            told = (await client.get("/settings")).json()
            assert (told["grace_seconds"], told["ssl_certfile"], told["ssl_client_names"]) == (7, None, [])

    @pytest.mark.parametrize("kind", [GatewaySettings, WorkerSettings, TokenizerSettings])
    def test_no_setting_is_a_secret(self, kind: type[Any]) -> None:
        """An option whose value is one must not be shown, and this test be told how that is."""
        secretive = {"key", "secret", "password", "token", "credential", "headers"}
        named_so = {one.name for one in dataclasses.fields(kind) if secretive & set(one.name.split("_"))}
        assert named_so <= {"tenant_key", "api_key_file"}  # a name of metadata, and a path

    def test_a_password_in_an_address_is_not_shown(self) -> None:
        own = dataclasses.replace(settings(), ssl_client_names=("spiffe://mill/x", "https://me:secret@mill/y"))
        assert shown(own)["ssl_client_names"] == ["spiffe://mill/x", "https://…@mill/y"]

    async def test_what_the_service_says_that_it_serves_is_shown_while_it_loads_too(self) -> None:
        service = ScriptedService(start=asyncio.Event().wait)
        async with listening(service, settings(**ADMIN)) as server, client_of(server) as client:
            assert (await client.get("/models")).json() == {"models": ["scripted"]}
            assert (await client.get("/drain")).json()["ready"] is False
            assert (await client.get("/tasks")).status_code == 200


class TestInAProcess:
    async def test_a_service_that_loads_can_be_asked(self) -> None:
        flags = ("--behaviour", "load for ever", "--admin-port", "0", "--drain-seconds", "0")
        async with process("tests.rpc.mill_service", *flags) as running:
            port = (await running.logged("listening for the operator"))["port"]
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                told = (await client.get("/threads")).json()
                assert any("threading:" in frame for thread in told["threads"] for frame in thread["frames"])
                await client.put("/loglevel", headers=JSON, json={"level": "error"})
                running.signal(signal.SIGTERM)
                assert await running.exit_code() == 0
        assert [json.loads(line)["message"] for line in running.lines][-1] == "log level set"

    async def test_a_signal_dumps_the_threads_of_one_whose_event_loop_is_stuck(self) -> None:
        async with process("tests.rpc.mill_service", "--behaviour", "stuck loop") as running:
            await running.logged("stuck")
            running.signal(signal.SIGUSR1)
            await running.wrote("in stick_for_ever")
            assert running.process.returncode is None
        assert any(line.startswith(("Current thread", "Thread")) for line in running.lines)
