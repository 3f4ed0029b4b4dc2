"""How a service calls others over TLS. A channel keeps the files that it was opened with: the library has no other way.

Who holds a channel opens another one when `version` has changed.
"""

from __future__ import annotations

import grpc

from rpc.reloaded import RefusedContentError, Reloaded
from rpc.tls.pem import Pem, PemFiles, read_pem


class ClientTls:
    """Whom we trust, and who we are to those who ask (mTLS)."""

    def __init__(self, files: PemFiles, server_name: str = "") -> None:
        """`server_name` is looked for in certificates in place of the target's host. Errors: RefusedContentError."""
        files.check_pair()
        if files.authorities is None:
            raise RefusedContentError(f"{files.prefix}-certfile needs {files.prefix}-ca-certs")
        self._server_name = server_name
        self._pem = Reloaded(f"{files.prefix}-ca-certs", files.paths, lambda: read_pem(files))

    @property
    def version(self) -> Pem:
        """What a channel that is opened now is opened with; another object once the files have changed."""
        return self._pem.current

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel that is opened now."""
        pem = self.version
        return grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.certificate)

    @property
    def options(self) -> list[tuple[str, str]]:
        """For its options."""
        return [("grpc.ssl_target_name_override", self._server_name)] if self._server_name else []


def client_tls(files: PemFiles, server_name: str) -> ClientTls | None:
    """As told; None if nothing is given: no TLS. Errors: RefusedContentError naming the flag."""
    if not files.paths:
        if server_name:
            raise RefusedContentError(f"{files.prefix}-server-name needs {files.prefix}-ca-certs")
        return None
    return ClientTls(files, server_name)
