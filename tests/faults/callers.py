"""Callers who ask again and again, of gateways that say that they take calls: as behind a Kubernetes service."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc

from gateway.fleet.watching import readiness
from rpc.transport import open_channel
from tests.faults.asks import Ask, Recorded
from tests.faults.matrix import UNAVAILABLE
from tokenmill.v1 import gateway_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from tests.faults.history import History

PROMPT_TOKENS = 20
DEADLINE_SECONDS = 30.0
ATTEMPTS = 3  # that a caller makes itself, elsewhere, as long as nothing has been said


class Gateways:
    """Who takes calls now. One whose address is gone is asked no more, but what it was asked goes on."""

    def __init__(self) -> None:
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._channels: list[grpc.aio.Channel] = []
        self._ready: dict[str, Any] = {}  # a stub by address; who was asked last stands last
        self._changed = asyncio.Event()

    def set_addresses(self, addresses: Collection[str]) -> None:
        """These are there now."""
        for gone in self._watching.keys() - set(addresses):
            self._watching.pop(gone).cancel()
        for new in set(addresses) - self._watching.keys():
            self._watching[new] = asyncio.create_task(self._watch(new))

    async def one(self) -> Any:
        """The stub of one that is ready, each in its turn."""
        while not self._ready:
            self._changed.clear()
            await self._changed.wait()
        address = next(iter(self._ready))
        self._ready[address] = stub = self._ready.pop(address)
        return stub

    async def close(self) -> None:
        self.set_addresses([])
        for channel in self._channels:
            await channel.close()

    async def _watch(self, address: str) -> None:
        channel = open_channel(address)
        self._channels.append(channel)
        try:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    async with aclosing(readiness(channel)) as states:  # waits for whoever is to listen there
                        async for is_ready in states:
                            self._set(address, channel if is_ready else None)
                self._set(address, None)
        finally:
            self._set(address, None)

    def _set(self, address: str, channel: grpc.aio.Channel | None) -> None:
        if channel is None:
            self._ready.pop(address, None)
        else:
            self._ready[address] = gateway_pb2_grpc.InferenceServiceStub(channel)
            self._changed.set()


class Traffic:
    """What the callers have heard of the calls that are over."""

    def __init__(self, gateways: Gateways, most_tokens: int) -> None:
        self.histories: list[History] = []
        self.refused: list[History] = []  # calls that ended before they began, and that their callers made again
        self._gateways = gateways
        self._most_tokens = most_tokens
        self._numbers = itertools.count()
        self._is_over = False

    @property
    def retries(self) -> int:
        return len(self.refused)

    @asynccontextmanager
    async def of(self, callers: int) -> AsyncIterator[None]:
        """So many at any time during the body; at its end all calls have been heard to theirs."""
        calling = [asyncio.create_task(self._ask_again_and_again()) for _ in range(callers)]
        try:
            yield
            self._is_over = True
            await asyncio.gather(*calling)
        finally:
            for task in calling:
                task.cancel()

    async def _ask_again_and_again(self) -> None:
        while not self._is_over:
            number = next(self._numbers)
            tokens = 1 + number * 37 % self._most_tokens
            self.histories.append(await self._answer(Ask(number, PROMPT_TOKENS, tokens, DEADLINE_SECONDS)))

    async def _answer(self, ask: Ask) -> History:
        for _ in range(ATTEMPTS):
            history = await Recorded(await self._gateways.one(), ask.in_text, ask).over()
            if history.code != UNAVAILABLE or history.events:
                break
            self.refused.append(history)
        return history
