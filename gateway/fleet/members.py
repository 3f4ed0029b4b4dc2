"""Who belongs to a tier now: a client for every target there is, and those that are gone but still finish something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic, Protocol, TypeVar

from gateway.fleet.targets import LOOK_SECONDS, Source, Targets
from rpc import log
from rpc.tls.client import ClientTls

LOGGER = logging.getLogger("tokenmill.gateway.members")


class Member(Protocol):
    """A client of one target."""

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

        When the files of `tls` change, all are made anew.
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
        self._replace(self._clients.keys() - targets, targets)

    async def _watch_files(self, tls: ClientTls) -> None:
        """Channels keep the certificates that they were opened with. With new ones, everybody is called anew."""
        version = tls.version
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if tls.version is not version:
                version = tls.version
                log.event(LOGGER, logging.INFO, "called with new certificates", targets=len(self._clients))
                self._replace(set(self._clients), frozenset(self._clients))

    def _replace(self, old: AbstractSet[str], targets: frozenset[str]) -> None:
        gone = [self._clients.pop(target) for target in old]
        for target in sorted(targets - self._clients.keys()):
            self._clients[target] = self._make(target, self.tell_change)
        for client in gone:
            leaving = asyncio.create_task(client.leave())
            self._leaving[leaving] = client
            leaving.add_done_callback(self._leaving.pop)
        self.tell_change()
