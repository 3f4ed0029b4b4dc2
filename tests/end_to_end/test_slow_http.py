"""Callers over HTTP that send or read too slowly, and heads that are made to be expensive."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.http import call as http_call
from rpc import http_server
from rpc.http_connection import MAX_HEAD_LINES
from tests.certificates import Authority
from tests.end_to_end.http import CHAT, HTTP, chat, http_stack
from tests.end_to_end.speaker import speaker
from tests.end_to_end.test_connection_limits import connected, http_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMIT_SECONDS = 3.0  # a busy machine has begun to answer by then
TOKENS = 20_000  # with what is told of each, megabytes more than the kernel takes


async def test_a_handshake_over_http_that_does_not_begin_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http_server, "HANDSHAKE_SECONDS", 0.1)
    pair = Authority(tmp_path).pair("server")
    async with (
        http_port(ssl_certfile=pair.certificate, ssl_keyfile=pair.key) as port,
        connected(port) as (reader, _),
        asyncio.timeout(10),
    ):
        assert await reader.read() == b""


async def test_a_body_that_comes_drop_by_drop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_call, "BODY_SECONDS", 0.2)
    async with http_port() as port, connected(port) as (reader, writer):
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n".encode())

        async def drip() -> None:
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408")
        dripping.cancel()


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"], ids=["alone", "behind another"])
@pytest.mark.parametrize("line", [b"a:\r\n", b"a:\n"])
async def test_a_head_of_many_lines_is_refused_before_it_is_read(before: bytes, line: bytes) -> None:
    async with http_port() as port, connected(port) as (reader, writer):
        writer.write(before + b"GET /health HTTP/1.1\r\nhost: x\r\n" + line * 10_000 + b"\r\n")
        if before:
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 431")


async def test_one_of_as_many_lines_as_there_may_be_and_lines_of_a_body_are_fine() -> None:
    async with http_port() as port, connected(port) as (reader, writer):
        head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n" + b"a: b\r\n" * (MAX_HEAD_LINES - 3)
        writer.write(head + b"\r\n" + b"\n" * 5000)
        writer.write(b"\n" * 5000)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")  # it is read, and no JSON


async def test_who_does_not_read_a_stream_is_let_go_when_its_time_is_over(tier: TokenizerTier) -> None:
    script = tier.tokenizer.encode("red, blue, green, yellow ").ids
    model = speaker(tier, *([script] * 1000), context_length=TOKENS + 100, kv_capacity_tokens=TOKENS + 1000)
    limits = {"max_deadline_seconds": LIMIT_SECONDS, "default_deadline_seconds": LIMIT_SECONDS}
    async with http_stack(tier, model=model, gateway=HTTP | limits) as (stack, _):
        assert stack.gateway_service.http is not None
        body = json.dumps(chat(stream=True, max_tokens=TOKENS, logprobs=True, top_logprobs=5)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        loop = asyncio.get_running_loop()
        with closing(socket.socket()) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asking.setblocking(False)
            await loop.sock_connect(asking, ("127.0.0.1", stack.gateway_service.http.port))
            began = time.monotonic()
            await loop.sock_sendall(asking, head + body)
            assert (await loop.sock_recv(asking, 12)) == b"HTTP/1.1 200"
            async with asyncio.timeout(60):
                await stack.gateway_server.calls.are(0)
                await stack.idle()
            assert time.monotonic() - began > LIMIT_SECONDS / 2
