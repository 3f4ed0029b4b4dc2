"""One tokenizer service, from the outside: whether it takes calls, how many it has, and calls to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias, TypeVar

from gateway.fleet.breaker import Breaker
from gateway.fleet.watching import LEAVE_SECONDS, answers, for_ever, readiness
from rpc import log
from rpc.errors import unavailable
from rpc.status import translated_errors
from rpc.tls.client import ClientTls
from rpc.transport import open_channel
from tokenmill.v1 import tokenizer_pb2_grpc

LOGGER = logging.getLogger("tokenmill.gateway.tokenizer")
PEER = "the tokenizer service"
PING_SECONDS = 1.0  # between pings
SILENT_SECONDS = 2.0  # without an answer to one; the longest thing it does on its event loop takes a tenth of that

TIMED_OUT = "TOKENIZER_TIMEOUT"

Stub: TypeAlias = "tokenizer_pb2_grpc.TokenizerServiceAsyncStub"  # a name of the type stubs only
Answer = TypeVar("Answer")


class TokenizerInstance:
    """Owns the channel to one tokenizer service and the tasks that watch it; event loop only.

    A frozen process keeps its connections and its readiness, so it is pinged too. If it does not answer, the calls that
    wait there are given up. One that has restarted begins without failures.
    """

    def __init__(
        self,
        target: str,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        tls: ClientTls | None = None,
    ) -> None:
        self.target = target
        self.is_leaving = False  # it gets nothing new if there is another one
        self.breaker = Breaker(clock)
        self._clock = clock
        self._on_change = on_change
        self._is_serving = False
        self._is_silent = False
        self._calls: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()  # no calls
        self._idle.set()
        self._channel = open_channel(target, tls)
        self._stub: Stub = tokenizer_pb2_grpc.TokenizerServiceStub(self._channel)
        watches = (self._watch_readiness, self._ping)
        self._watching = [asyncio.create_task(for_ever(watch, target)) for watch in watches]

    @property
    def is_ready(self) -> bool:
        """Whether it says that it takes calls, and answers."""
        return self._is_serving and not self._is_silent

    @property
    def outstanding(self) -> int:
        """Calls that run there."""
        return len(self._calls)

    def described(self) -> dict[str, object]:
        """For whoever operates the gateway."""
        state = {"ready": self.is_ready, "breaker": self.breaker.state, "silent": self._is_silent}
        return {"target": self.target, **state, "leaving": self.is_leaving, "calls": self.outstanding}

    async def ask(self, call: Callable[[Stub], Awaitable[Answer]], seconds: float) -> Answer:
        """The answer to `call`, which is given up after `seconds` or when the service falls silent.

        Errors: ServiceError; UNAVAILABLE also for what was given up.
        """
        try:
            async with asyncio.timeout(seconds) as patience:
                self._calls.add(patience)
                self._idle.clear()
                try:
                    with translated_errors(PEER):
                        return await call(self._stub)
                finally:
                    self._calls.discard(patience)
                    if not self._calls:
                        self._idle.set()
        except TimeoutError:
            raise unavailable(TIMED_OUT, f"{PEER} does not answer") from None

    async def leave(self) -> None:
        """Wait a little, and until its calls have ended, then close. It is still watched meanwhile."""
        self.is_leaving = True
        try:
            await asyncio.sleep(LEAVE_SECONDS)
            await self._idle.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop watching and close the channel."""
        for task in self._watching:
            task.cancel()
        await asyncio.wait(self._watching)
        await self._channel.close(None)

    async def _watch_readiness(self) -> None:
        try:
            async with aclosing(readiness(self._channel)) as states:
                async for is_serving in states:
                    if is_serving and not self._is_serving:
                        self.breaker = Breaker(self._clock)
                    self._set(is_serving=is_serving, is_silent=False)
        finally:
            self._set(is_serving=False, is_silent=self._is_silent)

    async def _ping(self) -> None:
        while True:
            if self._is_serving:
                is_silent = not await answers(self._channel, SILENT_SECONDS)
                self._set(is_serving=self._is_serving, is_silent=is_silent)
            await asyncio.sleep(PING_SECONDS)

    def _set(self, *, is_serving: bool, is_silent: bool) -> None:
        was_ready = self.is_ready
        self._is_serving, self._is_silent = is_serving, is_silent
        if is_silent:
            for patience in self._calls:
                if not patience.expired():
                    patience.reschedule(asyncio.get_running_loop().time())
        if self.is_ready != was_ready:
            happened = "tokenizer service ready" if self.is_ready else "tokenizer service not ready"
            log.event(LOGGER, logging.INFO, happened, target=self.target, silent=is_silent, calls=self.outstanding)
            self._on_change()
