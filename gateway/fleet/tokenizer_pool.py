"""All tokenizer services: which of them is asked, and who is asked next if that one does not answer.

What is asked of them changes nothing there, so it may be asked again. Never again is what is wrong with the request
itself: every other one would say the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

from gateway.deadline import Deadline
from gateway.fleet.failover import FULL, ORDERLY
from gateway.fleet.members import Members
from gateway.fleet.retry_budget import RetryBudget
from gateway.fleet.targets import Source
from gateway.fleet.tokenizer_instance import TIMED_OUT, Answer, Stub, TokenizerInstance
from rpc import log
from rpc.errors import ServiceError, deadline_exceeded, unavailable
from rpc.tls.client import ClientTls

LOGGER = logging.getLogger("tokenmill.gateway.tokenizer")
MAX_ATTEMPTS = 3
EXPIRED = "DEADLINE_EXCEEDED"
NOTICE_SECONDS = 0.05  # until a broken connection has ended the watch of readiness too
# Others may have room; and while models or vocabularies are rolled out, they may know what this one does not.
OTHERS_MAY_DO = frozenset({FULL, "UNKNOWN_MODEL", "VOCABULARY_MISMATCH"})


class TokenizerPool:
    """Owns the clients of the tokenizer services; event loop only."""

    def __init__(
        self,
        sources: Sequence[Source],
        attempt_seconds: float,
        wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        tls: ClientTls | None = None,
    ) -> None:
        """One attempt takes `attempt_seconds` at most. Where none is ready a request waits `wait_seconds` for one."""
        self._attempt_seconds = attempt_seconds
        self._wait_seconds = wait_seconds
        self._budget = RetryBudget()
        self._random = random.Random()  # noqa: S311 - who takes a request is no secret
        self._members = Members(
            sources, lambda target, on_change: TokenizerInstance(target, on_change, clock, tls), tls
        )

    async def close(self) -> None:
        """Close every client."""
        await self._members.close()

    async def wait_for_change(self) -> None:
        """Return at the next moment in which a service becomes ready, or is no longer."""
        await self._members.wait_for_change()

    @property
    def retries(self) -> int:
        """How often another service was asked."""
        return self._budget.spent

    @property
    def ready(self) -> int:
        """How many services are."""
        return len(self._ready())

    @property
    def open_breakers(self) -> int:
        """Services that say they are ready, have failed again and again, and have not answered since."""
        return sum(instance.is_ready and instance.breaker.has_opened for instance in self._members)

    def described(self) -> list[dict[str, object]]:
        """Every client of a service, for whoever operates the gateway."""
        return [instance.described() for instance in self._members]

    async def ask(
        self, call: Callable[[Stub], Awaitable[Answer]], deadline: Deadline, seconds: float | None = None
    ) -> Answer:
        """The answer to `call` of the service with the fewest calls; of another one if that one fails.

        `seconds`: for each attempt, if not the usual. Errors: ServiceError, that of the last attempt.
        """
        self._budget.earn()
        asked: list[TokenizerInstance] = []
        while True:
            instance = await self._chosen(asked, deadline)
            asked.append(instance)
            instance.breaker.enter()
            try:
                answer = await instance.ask(call, seconds or self._attempt_seconds)
            except ServiceError as error:
                _note(instance, error)
                if deadline.remaining() == 0:
                    raise deadline_exceeded() from None
                if not self._goes_on(asked, error):
                    raise
            else:
                instance.breaker.succeed()
                return answer

    def _goes_on(self, asked: Sequence[TokenizerInstance], error: ServiceError) -> bool:
        """Whether there is to be another attempt after the last one has failed."""
        if not error.is_unavailable and error.reason not in OTHERS_MAY_DO:
            return False
        # The same one is asked again only if it is expected to have restarted in between.
        is_slow = error.reason == TIMED_OUT and asked[-1].is_ready
        may_help = self._has_other(asked) or (error.is_unavailable and not is_slow)
        goes_on = len(asked) < MAX_ATTEMPTS and may_help and self._budget.spend()
        log.event(
            LOGGER, logging.WARNING, "attempt failed", target=asked[-1].target, reason=error.reason, goes_on=goes_on
        )
        return goes_on

    async def _chosen(self, asked: Collection[TokenizerInstance], deadline: Deadline) -> TokenizerInstance:
        """One that is ready, waiting for it if need be. Errors: ServiceError."""
        if asked and not self._has_other(asked):
            await asyncio.sleep(NOTICE_SECONDS)
        if not self._ready():
            await self._wait(deadline)
        if ready := self._ready():
            return self._least_busy(ready, asked)
        if deadline.remaining() == 0:
            raise deadline_exceeded()
        raise unavailable("NO_TOKENIZER", "no tokenizer service is ready")

    async def _wait(self, deadline: Deadline) -> None:
        """Wait until one is ready, for as long as that is worth."""
        remaining = deadline.remaining()
        seconds = self._wait_seconds if remaining is None else min(remaining, self._wait_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._ready():
                    await self._members.wait_for_change()

    def _has_other(self, asked: Collection[TokenizerInstance]) -> bool:
        return any(instance not in asked for instance in self._ready())

    def _ready(self) -> list[TokenizerInstance]:
        return [instance for instance in self._members if instance.is_ready]

    def _least_busy(self, ready: list[TokenizerInstance], asked: Collection[TokenizerInstance]) -> TokenizerInstance:
        here = [instance for instance in ready if not instance.is_leaving] or ready
        fresh = [instance for instance in here if instance not in asked] or here
        closed = [instance for instance in fresh if not instance.breaker.is_open] or fresh
        return min(closed, key=lambda instance: (instance.outstanding, self._random.random()))


def _note(instance: TokenizerInstance, error: ServiceError) -> None:
    """What a failed attempt tells about its service: that it is broken, that it answers, or nothing."""
    if error.reason in ORDERLY or error.reason == EXPIRED:
        return
    if error.is_unavailable:
        instance.breaker.fail()
    else:
        instance.breaker.succeed()
