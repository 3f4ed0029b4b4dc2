"""Whom a service lets in once TLS has: with mTLS, those whose certificates have one of the names that it was told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from rpc.errors import client_not_accepted

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class AcceptedPeers:
    """`names` are DNS names and URIs of certificates; empty: whoever TLS lets in."""

    names: frozenset[str]

    def check(self, context: Context) -> None:
        """Errors: ServiceError (PERMISSION_DENIED), also for a call that did not come over TLS."""
        peer: Mapping[str, Iterable[bytes]] = context.auth_context()
        if peer.get("transport_security_type") != [b"ssl"]:
            raise client_not_accepted()
        if self.names:
            self.check_names([name.decode() for kind in ("peer_dns", "peer_uri") for name in peer.get(kind, ())])

    def check_names(self, names: Sequence[str]) -> None:
        """Errors: ServiceError (PERMISSION_DENIED) unless one of a certificate's names is accepted."""
        if self.names and self.names.isdisjoint(names):
            raise client_not_accepted()
