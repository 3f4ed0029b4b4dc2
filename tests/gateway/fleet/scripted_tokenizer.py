"""A tokenizer service that does what a test wants of it, behind a real socket."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from rpc.health import Health
from rpc.transport import SERVER_OPTIONS
from tests.tokenizers_for_tests import byte_level_tokenizer
from tokenmill.v1 import tokenizer_pb2, tokenizer_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ScriptedTokenizer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Answers every text with its own name as the fingerprint, unless told to fail, to hold or to freeze."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.held = 0  # calls that wait for `go`
        self.go = asyncio.Event()
        self.go.set()
        self.fails: grpc.StatusCode | None = None  # in the middle, where there is one
        self.artefact = byte_level_tokenizer().to_str().encode()
        self.sha256 = hashlib.sha256(self.artefact).digest()
        self.health = FreezableHealth()
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()

    async def Encode(self, request: tokenizer_pb2.EncodeRequest, context: Any) -> tokenizer_pb2.EncodeResponse:
        self.asked += 1
        if self.fails is not None:
            await context.abort(self.fails)
        self.held += 1
        self._changed.set()
        try:
            await self.go.wait()
        finally:
            self.held -= 1
            self._changed.set()
        return tokenizer_pb2.EncodeResponse(vocabulary_fingerprint=self.name)

    async def GetTokenizer(
        self, request: tokenizer_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[tokenizer_pb2.GetTokenizerResponse]:
        self.asked += 1
        info = tokenizer_pb2.TokenizerInfo(vocabulary_fingerprint=self.name, template_fingerprint="t")
        yield tokenizer_pb2.GetTokenizerResponse(info=info)
        yield tokenizer_pb2.GetTokenizerResponse(chunk=self.artefact)
        if self.fails is not None:
            await context.abort(self.fails)
        yield tokenizer_pb2.GetTokenizerResponse(sha256=self.sha256)

    async def holds(self, count: int) -> None:
        """Return once `count` calls wait."""
        while self.held != count:
            self._changed.clear()
            await self._changed.wait()

    def freeze(self) -> None:
        """Answer nothing any more, as a process that was stopped."""
        self.go.clear()
        self.health.thawed.clear()

    async def start(self) -> None:
        """Listen, on the port it had before."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.health.set_ready(ready=True)
        await self._server.start()

    async def stop(self) -> None:
        """Break every connection."""
        if self._server is not None:
            await self._server.stop(0)

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


class FreezableHealth(Health):
    """Says whether it is ready only as long as it is not frozen."""

    def __init__(self) -> None:
        super().__init__("tokenizer")
        self.thawed = asyncio.Event()
        self.thawed.set()

    async def Check(self, request: Any, context: Any) -> Any:
        await self.thawed.wait()
        return await super().Check(request, context)


@asynccontextmanager
async def scripted_tokenizers(*names: str) -> AsyncIterator[list[ScriptedTokenizer]]:
    """One service for each name, listening."""
    services = [ScriptedTokenizer(name) for name in names]
    for service in services:
        await service.start()
    try:
        yield services
    finally:
        for service in services:
            await service.stop()
