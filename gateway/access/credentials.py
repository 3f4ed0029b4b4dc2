"""The credential that a call carries: `authorization: Bearer …`, in gRPC's metadata and in HTTP's headers alike."""

from __future__ import annotations

from collections.abc import Iterable

from rpc.errors import invalid_credentials, missing_credentials

HEADER = "authorization"
MAX_CREDENTIAL_BYTES = 8 * 1024  # a token with many claims has two or three


def credential_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Errors: ServiceError (UNAUTHENTICATED) if there is none, more than one, or one of another kind."""
    values = [value for key, value in metadata if key == HEADER]
    if not values:
        raise missing_credentials()
    [value, *others] = values
    if others or not isinstance(value, str) or len(value) > MAX_CREDENTIAL_BYTES:
        raise invalid_credentials()
    scheme, _, credential = value.partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential or not credential.isascii():
        raise invalid_credentials()
    return credential
