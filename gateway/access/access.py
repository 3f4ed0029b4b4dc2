"""Authentication, the same for gRPC and HTTP. Once keys or tokens are known, who shows none may call nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from gateway.access.credentials import credential_of
from gateway.access.identity import Identity
from gateway.access.keys import FLAG as KEY_FLAG
from gateway.access.keys import KeyRing, read_keys
from gateway.access.tokens import FLAG as JWKS_FLAG
from gateway.access.tokens import TokenRules, TokenVerifier, read_verifier
from gateway.settings import GatewaySettings
from gateway.tenants import tenant_of
from rpc.errors import invalid_credentials
from rpc.reloaded import RefusedContentError, Reloaded

Metadata = Iterable[tuple[str, str | bytes]]


class Access:
    """Knows callers by what they show. Files are looked at with every call, so that a key that is taken out is out."""

    def __init__(self, keys: Reloaded[KeyRing] | None, tokens: Reloaded[TokenVerifier] | None, tenant_key: str) -> None:
        """With neither, everybody may call, and `tenant_key` of the metadata names the tenant."""
        self._keys = keys
        self._tokens = tokens
        self._tenant_key = tenant_key

    def check(self, metadata: Metadata) -> None:
        """Errors: ServiceError (UNAUTHENTICATED) for a caller that is not known and has to be."""
        if self._keys is not None or self._tokens is not None:
            self.identity(metadata)

    def identity(self, metadata: Metadata) -> Identity:
        """Who calls. A tenant is what the credential says, whatever the metadata does. Errors: ServiceError."""
        if self._keys is None and self._tokens is None:
            return Identity("", tenant_of(metadata, self._tenant_key))
        credential = credential_of(metadata)
        if self._keys is not None and (holder := self._keys.current.identity(credential, datetime.now(UTC))):
            return holder
        if self._tokens is None:
            raise invalid_credentials()
        return self._tokens.current.identity(credential)


def access_from(settings: GatewaySettings) -> Access:
    """As the gateway is told. Errors: RefusedContentError naming the flag."""
    key_file, jwks_file = settings.api_key_file, settings.jwt_jwks_file
    keys = None if key_file is None else Reloaded(KEY_FLAG, [key_file], lambda: read_keys(key_file))
    for flag, given in (("--jwt-issuer", settings.jwt_issuer), ("--jwt-audience", settings.jwt_audience)):
        if bool(given) != (jwks_file is not None):
            raise RefusedContentError(f"{JWKS_FLAG} needs {flag}" if jwks_file else f"{flag} needs {JWKS_FLAG}")
    rules = TokenRules(settings.jwt_issuer, settings.jwt_audience, settings.jwt_tenant_claim)
    tokens = None if jwks_file is None else Reloaded(JWKS_FLAG, [jwks_file], lambda: read_verifier(jwks_file, rules))
    return Access(keys, tokens, settings.tenant_key)
