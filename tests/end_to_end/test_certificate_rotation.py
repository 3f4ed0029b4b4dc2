"""Certificates, and at last the authority, are replaced while calls run and connections are made. Nobody notices."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.fleet import members, tokenizer_instance, worker_client
from model_worker.engines.fake_faults import Gate
from tests.certificates import Authority, replace, serial_number
from tests.end_to_end.http import CHAT, chat, streamed
from tests.end_to_end.requests import Stopping, generate
from tests.end_to_end.stack import reached
from tests.end_to_end.tls_stack import CALLER, GATEWAY_URI, TlsStack, caller_of, https_client, secure_channel, tls_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gateway.fleet.members import Members

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKENS = 40
LANES = 2  # of each kind of caller
ROUNDS = 3  # of every lane, between one replacement and the next


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway looks at its files at once, and leaves its old connections at once when they have no calls."""
    monkeypatch.setattr(members, "LOOK_SECONDS", 0.01)
    for module in (worker_client, tokenizer_instance):
        monkeypatch.setattr(module, "LEAVE_SECONDS", 0.01)


class Load:
    """Callers that go on until they are told to stop; each request is whole, or the test fails."""

    def __init__(self) -> None:
        self._rounds: list[int] = []
        self._changed = asyncio.Event()
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._rounds.append(0)
        self._tasks.append(asyncio.create_task(self._go_on(len(self._rounds) - 1, ask)))

    async def all_do(self, rounds: int) -> None:
        """Return once every caller has had so many more requests answered."""
        wanted = [done + rounds for done in self._rounds]
        while any(done < goal for done, goal in zip(self._rounds, wanted, strict=True)):
            for task in self._tasks:
                if task.done():
                    task.result()
            self._changed.clear()
            await self._changed.wait()

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _go_on(self, lane: int, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            while not self._is_over:
                await ask()
                self._rounds[lane] += 1
                self._changed.set()
        finally:
            self._changed.set()


async def stream_with(gateway: Any) -> None:
    events = [event async for event in gateway.StreamGenerate(generate(stopping=Stopping(max_new_tokens=TOKENS)))]
    assert events[-1].WhichOneof("event") == "finished"


def trust(stack: TlsStack) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(stack.who.authority.file))
    context.load_cert_chain(stack.who.caller.certificate, stack.who.caller.key)
    return context


@asynccontextmanager
async def load_on(stack: TlsStack) -> AsyncIterator[Load]:
    """Over gRPC and HTTP; on connections that stay, and on one after the other."""

    async def new_grpc() -> None:
        async with caller_of(stack) as gateway:
            await stream_with(gateway)

    async def new_http() -> None:
        async with https_client(stack.url, trust(stack)) as client:
            assert (await streamed(client, CHAT, chat()))[-1] == "[DONE]"

    load = Load()
    async with caller_of(stack) as gateway, https_client(stack.url, trust(stack)) as client:

        async def old_grpc() -> None:
            await stream_with(gateway)

        async def old_http() -> None:
            assert (await streamed(client, CHAT, chat()))[-1] == "[DONE]"

        for _ in range(LANES):
            for ask in (new_grpc, new_http, old_grpc, old_http):
                load.add(ask)
        try:
            await load.all_do(1)
            yield load
        finally:
            await load.end()


async def shown_to(context: ssl.SSLContext, port: int) -> int:
    """The serial number of the certificate that a new connection sees."""
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return serial_number(ssl.DER_cert_to_PEM_cert(shown))


async def shown_by_http(stack: TlsStack) -> int:
    return await shown_to(trust(stack), stack.http_port)


async def shown_by_grpc(stack: TlsStack, port: int) -> int:
    """The same at a gRPC port."""
    context = ssl.create_default_context(cafile=str(stack.who.authority.file))
    pair = stack.who.caller if port == stack.gateway.port else stack.who.gateway
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])
    return await shown_to(context, port)


def clients_of(stack: TlsStack) -> list[Members[Any]]:
    return [stack.service._workers._workers, stack.service._services._members]


async def called_anew(stack: TlsStack, before: list[list[Any]]) -> None:
    """Return once the gateway has new, ready connections to everybody and has left those of `before`."""
    for tier, old in zip(clients_of(stack), before, strict=True):
        while any(client in old for client in tier) or not all(client.is_ready for client in tier):
            left = [client._idle.wait() for client in tier if client in old]
            await asyncio.wait(
                [asyncio.ensure_future(tier.wait_for_change()), *map(asyncio.ensure_future, left)],
                return_when=asyncio.FIRST_COMPLETED,
                timeout=0.1,
            )


async def test_certificates_are_replaced_under_load_without_a_failed_request(tmp_path: Path) -> None:
    async with tls_stack(tmp_path) as stack, load_on(stack) as load:
        who = stack.who
        for number in range(2):
            before = [list(tier) for tier in clients_of(stack)]
            new = [
                who.authority.pair("gateway", GATEWAY_URI, "localhost", "127.0.0.1", file=f"gateway-{number}"),
                who.authority.pair("tokenizer", file=f"tokenizer-{number}"),
                who.authority.pair("worker", file=f"worker-{number}"),
            ]
            for old, pair in zip((who.gateway, who.tokenizer, who.worker), new, strict=True):
                old.become(pair)
            serials = [serial_number(pair.certificate.read_bytes()) for pair in new]
            ports = [stack.gateway.port, stack.tokenizer.port, stack.worker.port]
            assert [await shown_by_grpc(stack, port) for port in ports] == serials
            assert await shown_by_http(stack) == serials[0]
            await called_anew(stack, before)
            await load.all_do(ROUNDS)
        assert stack.service._workers.retries == 0


async def test_the_authority_is_replaced_under_load_without_a_failed_request(tmp_path: Path) -> None:
    async with tls_stack(tmp_path) as stack:
        who = stack.who
        old_authority = who.authority.file.read_bytes()
        new_authority = Authority(tmp_path, "new-authority")
        old_caller = who.authority.pair(CALLER, file="old-caller")
        async with load_on(stack) as load:
            # First everybody trusts both, then everybody is somebody new, and then nobody trusts the old one.
            replace(who.authority.file, old_authority + new_authority.file.read_bytes())
            await load.all_do(ROUNDS)
            before = [list(tier) for tier in clients_of(stack)]
            who.gateway.become(new_authority.pair("gateway", GATEWAY_URI, "localhost", "127.0.0.1"))
            for pair in (who.tokenizer, who.worker):
                pair.become(new_authority.pair(pair.certificate.stem))
            who.caller.become(new_authority.pair(CALLER))
            await called_anew(stack, before)
            await load.all_do(ROUNDS)
            replace(who.authority.file, new_authority.file.read_bytes())
            await load.all_do(ROUNDS)
        async with secure_channel(stack.gateway.port, new_authority.file.read_bytes(), old_caller) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        context = ssl.create_default_context(cafile=str(who.authority.file))
        context.load_cert_chain(old_caller.certificate, old_caller.key)
        async with https_client(stack.url, context) as client:
            with pytest.raises(Exception, match=r"(?i)alert|reset|closed|disconnected|eof"):
                await client.get("/health")


async def test_a_running_stream_keeps_the_connection_that_it_has(tmp_path: Path) -> None:
    gate = Gate()
    gate.allow(1)
    async with tls_stack(tmp_path, gate) as stack, caller_of(stack) as gateway:
        gate.allow(3)
        stream = gateway.StreamGenerate(generate(stopping=Stopping(max_new_tokens=TOKENS)))
        await stream.read()
        await reached(gate)
        [worker] = clients_of(stack)[0]
        stack.who.gateway.become(stack.who.authority.pair("gateway", GATEWAY_URI, "localhost", file="gateway-2"))
        tier = clients_of(stack)[0]
        while not any(client.is_ready and client is not worker for client in tier):
            await tier.wait_for_change()
        assert worker.is_leaving
        gate.open()
        last = None
        while (event := await stream.read()) is not grpc.aio.EOF:
            last = event
        assert last.WhichOneof("event") == "finished"
        assert stack.service._workers.retries == 0


async def test_a_key_that_is_not_the_certificates_changes_nothing_until_it_is(tmp_path: Path) -> None:
    async with tls_stack(tmp_path) as stack:
        who = stack.who
        old = serial_number(who.worker.certificate.read_bytes())
        new = who.authority.pair("worker", file="worker-2")
        replace(who.worker.certificate, new.certificate.read_bytes())
        assert await shown_by_grpc(stack, stack.worker.port) == old
        replace(who.worker.key, new.key.read_bytes())
        assert await shown_by_grpc(stack, stack.worker.port) == serial_number(new.certificate.read_bytes())


async def test_a_new_certificate_that_is_refused_takes_no_worker_away(tmp_path: Path) -> None:
    async with tls_stack(tmp_path) as stack, caller_of(stack) as gateway:
        await stream_with(gateway)
        who = stack.who
        right = who.authority.pair("gateway", GATEWAY_URI, "localhost", file="gateway-2")
        before = [list(tier) for tier in clients_of(stack)]
        who.gateway.become(who.pretender)
        for tier, [old] in zip(clients_of(stack), before, strict=True):
            while not old.is_leaving:
                await tier.wait_for_change()
            assert old.is_ready
        await stream_with(gateway)
        who.gateway.become(right)
        await called_anew(stack, before)
        await stream_with(gateway)
