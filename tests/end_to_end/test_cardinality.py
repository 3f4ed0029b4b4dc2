"""Whatever callers make up, a service has the series that it has anyway, and no word of theirs in them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from rpc.metrics import text_of
from tests.end_to_end.access import RIGHT_KEY, entry, write_keys
from tests.end_to_end.http import CHAT, COMPLETIONS, RESPONSES, http_stack
from tests.end_to_end.http import chat as http_chat
from tests.end_to_end.requests import Stopping, chat, generate
from tests.end_to_end.stack import NAME, TokenizerTier
from tests.end_to_end.test_metrics import told
from tokenmill.v1 import gateway_pb2, tokenizer_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx2

    from tests.end_to_end.stack import Stack
    from tests.serving import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")
MARKER = "quixotic"
REQUESTS = 10_000
AT_ONCE = 100
# What may come beside the series of a service that has answered one request. Of the gateway: for each of 16 routes and
# 8 verbs a histogram of 19 series and a few codes; of the others, for each of a few methods; and reasons of errors.
MOST_NEW = {"gateway": 3300, "worker": 100, "tokenizer": 100}
ROUTES = (CHAT, COMPLETIONS, RESPONSES, "/v1/models", "/tokenize", "/detokenize", "/workers", "/health", "/docs")
VERBS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
ONE = Stopping(max_new_tokens=1)


class Inventor:
    """A caller who makes everything up, always the same."""

    def __init__(self) -> None:
        self._random = random.Random(20261129)

    def word(self) -> str:
        return f"{MARKER}-{self._random.randrange(10**9)}"

    def pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """A tenant, an id, a header and a key, of which half are right."""
        key = self.pick(RIGHT_KEY, self.word())
        own = {"x-tenant-id": self.word(), "x-request-id": self.word(), self.word(): self.word()}
        return (*own.items(), ("authorization", f"{self.pick('Bearer', 'Bearer', 'Bearer', MARKER)} {key}"))

    def rpc(self, stack: Stack) -> Awaitable[Any]:
        """One of the gateway's, or of nobody's."""
        model = self.pick(NAME, self.word())
        given = {"model": model, "cache_salt": self.word()}
        gateway, metadata = stack.gateway, self.metadata()
        match self._random.randrange(5):
            case 0:
                return gateway.Generate(generate(self.word(), stopping=ONE, **given), metadata=metadata)
            case 1:
                return gateway.Chat(chat(stopping=ONE, **given), metadata=metadata)
            case 2:
                return gateway.GetModel(gateway_pb2.GetModelRequest(model=self.word()), metadata=metadata)
            case 3:
                return made_up(stack.gateway_channel, f"/{self.word()}/{self.word()}", metadata)
        return made_up(stack.gateway_channel, f"/tokenmill.v1.InferenceService/{self.word()}", metadata)

    def http(self, client: httpx2.AsyncClient) -> Awaitable[Any]:
        """With a verb and a path that there are, or not."""
        verb = self.pick(*VERBS, self.word().upper())
        path = self.pick(*ROUTES, f"/{self.word()}", f"/v1/models/{self.word()}", f"/v1/{self.word()}?{self.word()}")
        body = http_chat(model=self.pick(NAME, self.word()), user=self.word(), max_tokens=1)
        return client.request(verb, path, json=body, headers=dict(self.metadata()))

    def worker(self, stack: Stack) -> Awaitable[Any]:
        """Past the gateway."""
        if self.pick(True, False):
            return made_up(stack.worker_channel, f"/{self.word()}/{self.word()}", self.metadata())
        start = worker_pb2.Start(model=self.word(), vocabulary_fingerprint=self.word())
        call = stack.worker.Generate(metadata=self.metadata())

        async def ask() -> None:
            await call.write(worker_pb2.WorkerServiceGenerateRequest(start=start))
            await call.read()

        return ask()

    def tokenizer(self, tier: TokenizerTier) -> Awaitable[Any]:
        """Past the gateway."""
        prompts = gateway_pb2.TextPrompts(texts=[self.word()])
        request = tokenizer_pb2.EncodeRequest(model=self.pick(NAME, self.word()), prompts=prompts)
        return tier.stub.Encode(request, metadata=self.metadata())


def made_up(channel: grpc.aio.Channel, method: str, metadata: Any) -> Awaitable[Any]:
    return channel.unary_unary(method)(b"", metadata=metadata)


async def test_ten_thousand_requests_of_made_up_names_leave_few_series(tier: TokenizerTier, tmp_path: Path) -> None:
    inventor = Inventor()
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY))
    async with http_stack(tier, gateway={"api_key_file": keys}) as (stack, client):
        servers = {"gateway": stack.gateway_server, "worker": stack.worker_server, "tokenizer": tier.server}
        await stack.gateway.Generate(generate(), metadata=(("authorization", f"Bearer {RIGHT_KEY}"),))
        before = {name: series(server) for name, server in servers.items()}
        calls_before = sum(calls(server) for server in servers.values())
        kinds: list[Callable[[], Awaitable[Any]]] = [
            lambda: inventor.rpc(stack),
            lambda: inventor.rpc(stack),
            lambda: inventor.http(client),
            lambda: inventor.worker(stack),
            lambda: inventor.tokenizer(tier),
        ]
        for begin in range(0, REQUESTS, AT_ONCE):
            asked = [kinds[number % len(kinds)]() for number in range(begin, begin + AT_ONCE)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            unexpected = [
                one for one in answers if isinstance(one, Exception) and not isinstance(one, grpc.aio.AioRpcError)
            ]
            assert unexpected == []
        new = {name: len(series(server) - before[name]) for name, server in servers.items()}
        assert all(new[name] <= MOST_NEW[name] for name in servers), new
        assert sum(calls(server) for server in servers.values()) - calls_before >= REQUESTS
        assert not any(MARKER in text_of(server.registry).decode().lower() for server in servers.values())


def series(server: RunningServer) -> set[tuple[str, ...]]:
    return set(told(server))


def calls(server: RunningServer) -> float:
    """So many have ended."""
    return sum(value for key, value in told(server).items() if key[0] == "tokenmill_calls_total")
