"""How a service proves who it is, over gRPC and HTTP, with files that may be replaced while it runs."""

from __future__ import annotations

import ssl

import grpc

from rpc.reloaded import RefusedContentError, Reloaded
from rpc.settings import ServiceSettings
from rpc.tls.peers import AcceptedPeers
from rpc.tls.pem import Pem, PemFiles, load_into, read_pem

PREFIX = "--ssl"


class ServerTls:
    """One service's identity. With authorities, clients have to prove theirs (mTLS). Each handshake uses the newest."""

    def __init__(self, files: PemFiles, names: frozenset[str]) -> None:
        """Errors: RefusedContentError."""
        self.peers = AcceptedPeers(names)
        self._files = files
        self._for_grpc = Reloaded(f"{PREFIX}-certfile", files.paths, lambda: read_pem(files))
        self._for_http = Reloaded(f"{PREFIX}-certfile (HTTP)", files.paths, self._new_context)
        self._given = self._for_grpc.current

    def pem(self) -> Pem:
        """What the next handshake uses."""
        return self._for_grpc.current

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the port; the library asks `_fetch` before every handshake, in threads of its own."""
        is_mutual = self._files.authorities is not None
        return grpc.dynamic_ssl_server_credentials(_configuration(self._given), self._fetch, is_mutual)  # type: ignore[arg-type]  # None is fine

    def http_context(self) -> ssl.SSLContext:
        """For the listening socket. Each handshake goes on with a context made of the newest files."""
        first = self._new_context()

        def use_newest(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            handshake.context = self._for_http.current

        first.sni_callback = use_newest  # called for clients that send no name, too
        return first

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What the library is to use from now on; None: what it has."""
        newest = self._for_grpc.current
        if newest is self._given:
            return None
        self._given = newest
        return _configuration(newest)

    def _new_context(self) -> ssl.SSLContext:
        """Errors: RefusedContentError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        load_into(context, self._files)
        if self._files.authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            # A session that is resumed would not be verified again, by whatever authorities there are by then.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context


def server_tls(settings: ServiceSettings) -> ServerTls | None:
    """The identity that a service is told to have; None: no TLS. Errors: RefusedContentError naming the flag."""
    files = PemFiles(PREFIX, settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_ca_certs)
    files.check_pair()
    if files.authorities is not None and files.certificate is None:
        raise RefusedContentError(f"{PREFIX}-ca-certs needs {PREFIX}-certfile and {PREFIX}-keyfile")
    if settings.ssl_client_names and files.authorities is None:
        raise RefusedContentError(f"{PREFIX}-client-names needs {PREFIX}-ca-certs")
    return None if files.certificate is None else ServerTls(files, frozenset(settings.ssl_client_names))


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.key is not None, "a server has a certificate"
    assert pem.certificate is not None, "a server has a certificate"
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authorities)
