"""Where the workers are: addresses that are given, names that are looked up again and again, a file that is watched.

    host:port         one worker; a name is resolved by the connection, once
    dns:name:port     a worker at every address of the name, as of a headless service; asked every other second
    file:path         one `host:port` per line, # for comments; read every other second

What cannot be asked or read now stays as it was: a name server that is down takes no worker away. A name that exists no
longer, or has no address, has no workers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import dns.asyncresolver
import dns.exception
import dns.resolver

from rpc import log
from rpc.transport import join_address

LOGGER = logging.getLogger("tokenmill.gateway.targets")
LOOK_SECONDS = 2.0  # between looks, and the longest that one takes
MAX_TARGETS = 4096  # of one name or file
DNS, FILE = "dns:", "file:"


class TargetError(ValueError):
    """A target that cannot be understood; the message says which."""


class Source(Protocol):
    """Where some targets come from."""

    async def look(self) -> Sequence[str]:
        """The targets, `host:port`, now. Errors: LookError."""
        ...


class LookError(Exception):
    """The source cannot tell now; the message is for the log."""


class Given:
    """A target that never changes."""

    def __init__(self, target: str) -> None:
        self._target = target

    async def look(self) -> Sequence[str]:
        """The target."""
        return (self._target,)


class Name:
    """Every address of a name."""

    def __init__(self, name: str, port: int, resolver: dns.asyncresolver.Resolver) -> None:
        self._name = name
        self._port = port
        self._resolver = resolver

    async def look(self) -> Sequence[str]:
        """Its IPv4 and IPv6 addresses, sorted. Errors: LookError."""
        answers = await asyncio.gather(*(self._ask(kind) for kind in ("A", "AAAA")))
        return [join_address(address, self._port) for address in sorted({one for answer in answers for one in answer})]

    async def _ask(self, kind: str) -> list[str]:
        try:
            answer = await self._resolver.resolve(self._name, kind, search=True, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return []
        except dns.exception.DNSException as error:
            raise LookError(f"{self._name}: {type(error).__name__}") from error
        return [record.to_text() for record in answer.rrset or ()]


class ListFile:
    """The lines of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def look(self) -> Sequence[str]:
        """Its targets, in order. Errors: LookError, for the file as a whole where one line is not a target."""
        try:
            text = await asyncio.to_thread(self._path.read_text, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LookError(f"{self._path.name}: {type(error).__name__}") from error
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        try:
            return [check_target(line) for line in lines if line]
        except TargetError as error:
            raise LookError(f"{self._path.name}: {error}") from None


class Targets:
    """Looks at all sources, now and then, and tells what there is."""

    def __init__(self, sources: Sequence[Source], tell: Callable[[frozenset[str]], None]) -> None:
        """`tell` is called with all targets when they have changed, the first time with the first ones."""
        self._known: dict[Source, Sequence[str]] = dict.fromkeys(sources, ())
        self._told: frozenset[str] | None = None
        self._tell = tell

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        await asyncio.gather(*map(self._look_at, self._known))
        all_known = frozenset(target for known in self._known.values() for target in known)
        if all_known != self._told:
            self._told = all_known
            self._tell(all_known)

    async def _look_at(self, source: Source) -> None:
        try:
            found = await source.look()
        except LookError as error:
            log.event(LOGGER, logging.WARNING, "targets unknown, as before", why=str(error))
            return
        if len(found) > MAX_TARGETS:
            log.event(LOGGER, logging.ERROR, "too many targets", found=len(found), taken=MAX_TARGETS)
        self._known[source] = found[:MAX_TARGETS]


def source_of(text: str, dns_server: str = "") -> Source:
    """Read a target as an operator writes it. `dns_server`: IP address and port; empty: the system's.

    Errors: TargetError.
    """
    if text.startswith(FILE):
        return ListFile(Path(text.removeprefix(FILE)))
    if text.startswith(DNS):
        name, port = _split(check_target(text.removeprefix(DNS)))
        return Name(name, port, _resolver(dns_server))
    return Given(check_target(text))


def check_target(text: str) -> str:
    """Return `text` if it is host:port. Errors: TargetError."""
    host, port = _split(text)
    if not host or not 0 < port < 65536 or any(character.isspace() for character in text):
        raise TargetError(f"{text!r} is not host:port")
    return text


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port) if port.isascii() and port.isdigit() else 0


def _resolver(dns_server: str) -> dns.asyncresolver.Resolver:
    if not dns_server:
        resolver = dns.asyncresolver.Resolver()
    else:
        host, port = _split(dns_server)
        try:
            address = str(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            raise TargetError(f"{dns_server!r} is not the IP address and port of a name server") from None
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [address]
        resolver.port = port
    resolver.lifetime = LOOK_SECONDS
    return resolver
