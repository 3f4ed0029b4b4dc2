"""A name server whose answers the test sets."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class NameServer(asyncio.DatagramProtocol):
    """`addresses` by name; a name that is not there does not exist. With `is_broken` it fails, as for any name."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.is_broken = False
        self.port = 0
        self._transport: Any = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        (question,) = query.question
        known = self.addresses.get(question.name.to_text(omit_final_dot=True))
        version = 4 if question.rdtype == dns.rdatatype.A else 6
        found = [one for one in known or () if ipaddress.ip_address(one).version == version]
        if self.is_broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif known is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found:
            response.answer.append(dns.rrset.from_text(question.name, 5, "IN", question.rdtype, *found))
        self._transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A name server on a free port of this machine."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
