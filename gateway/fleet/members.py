"""Who belongs to a tier now: a client for every target there is, and those that are gone but still finish something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from gateway.fleet.targets import LOOK_SECONDS, Source, Targets
from rpc import log
from rpc.tls.client import ClientTls

LOGGER = logging.getLogger("tokenmill.gateway.members")


class Member(Protocol):
    """A client of one target."""

    is_leaving: bool  # it gets nothing new if there is another one

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls."""
        ...

    async def leave(self) -> None:
        """Take nothing new if there is another one, finish what runs, then close."""
        ...

    async def close(self) -> None:
        """Close at once."""
        ...


Client = TypeVar("Client", bound=Member)


class Members(Generic[Client]):
    """Owns the clients of one tier; event loop only."""

    def __init__(
        self, sources: Sequence[Source], make: Callable[[str, Callable[[], None]], Client], tls: ClientTls | None = None
    ) -> None:
        """`make` makes the client of a target; it calls its second argument when that becomes ready or is no longer.

        When the files of `tls` change, all are made anew; the old ones go when the new ones are ready.
        """
        self._make = make
        self._clients: dict[str, Client] = {}  # by target
        self._leaving: dict[asyncio.Task[None], Client] = {}
        self._changed = asyncio.Event()
        self._watching = {asyncio.create_task(Targets(sources, self._set_targets).watch())}
        if tls is not None:
            self._watching.add(asyncio.create_task(self._watch_files(tls)))

    def __iter__(self) -> Iterator[Client]:
        """Every client, those that leave last."""
        return iter([*self._clients.values(), *self._leaving.values()])

    def tell_change(self) -> None:
        """Wake whoever waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_for_change(self) -> None:
        """Return at the next moment in which a member becomes ready, or is no longer."""
        await self._changed.wait()

    async def close(self) -> None:
        """Close every client."""
        ending = (*self._watching, *self._leaving)
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def _set_targets(self, targets: frozenset[str]) -> None:
        """Begin with those that are new. Those that are gone are left when they have finished.

        They get nothing new, unless nobody else is ready: of a fleet that is replaced at once, the new one is not yet.
        """
        gone = [self._clients.pop(target) for target in self._clients.keys() - targets]
        for target in sorted(targets - self._clients.keys()):
            self._clients[target] = self._make(target, self.tell_change)
        for client in gone:
            self._let_go(client, client.leave())
        self.tell_change()

    async def _watch_files(self, tls: ClientTls) -> None:
        """Channels keep the certificates that they were opened with. With new ones, everybody is called anew."""
        version = tls.version
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if tls.version is not version:
                version = tls.version
                log.event(LOGGER, logging.INFO, "called with new certificates", targets=len(self._clients))
                self._renew()

    def _renew(self) -> None:
        for target, old in list(self._clients.items()):
            old.is_leaving = True
            self._clients[target] = self._make(target, self.tell_change)
            self._let_go(old, self._leave_when_renewed(target, old))
        self.tell_change()

    async def _leave_when_renewed(self, target: str, old: Client) -> None:
        """Not before: a new certificate may be refused, and the connection that there is goes on."""
        try:
            while old.is_ready and (new := self._clients.get(target)) is not None and not new.is_ready:
                await self._changed.wait()
        except asyncio.CancelledError:
            await old.close()
            raise
        await old.leave()

    def _let_go(self, client: Client, leave: Coroutine[None, None, None]) -> None:
        leaving = asyncio.create_task(leave)
        self._leaving[leaving] = client
        leaving.add_done_callback(self._leaving.pop)
