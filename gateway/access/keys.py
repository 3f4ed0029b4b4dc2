"""Keys: long random texts, of which a file holds the SHA-256, and what each is for.

A plain, fast hash is right here, as it would not be for passwords: nobody can guess 256 random bits, however fast.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.access.identity import Identity, Permission
from gateway.tenants import ACCEPTED_NAME
from rpc.errors import expired_credentials
from rpc.reloaded import RefusedContentError, read_file

FLAG = "--api-key-file"
MAX_KEYS = 100_000
_FIELDS = {"name", "sha256", "tenant", "models", "max_inflight", "requests_per_minute", "expires"}


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the file."""

    digest: bytes
    identity: Identity
    expires: datetime | None


class KeyRing:
    """The keys of one file."""

    def __init__(self, keys: Mapping[bytes, Key]) -> None:
        """`keys`: by their digests."""
        self._keys = keys

    def identity(self, credential: str, now: datetime) -> Identity | None:
        """Who holds this key; None if it is none. Errors: ServiceError if it has expired.

        What time this takes tells nothing of a key: digests are compared in constant time, and found by a hash of
        digests, so that whoever wanted to learn from that would have to find texts with digests of its choice.
        """
        digest = hashlib.sha256(credential.encode()).digest()
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        if key.expires is not None and key.expires <= now:
            raise expired_credentials()
        return key.identity


def read_keys(path: Path) -> KeyRing:
    """Read a file in TOML or JSON with an array `keys`. Errors: RefusedContentError naming the entry."""
    content = _parsed(path, read_file(path, FLAG))
    entries = content.get("keys")
    if content.keys() - {"keys"} or not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise _refused(path, f"must be an array `keys` of {MAX_KEYS} entries at most, and nothing else")
    keys: dict[bytes, Key] = {}
    names = set()
    for number, entry in enumerate(entries, 1):
        try:
            key = _key(entry)
        except ValueError as error:
            raise _refused(path, f"entry {number}: {error}") from None
        if key.digest in keys or key.identity.name in names:
            raise _refused(path, f"entry {number}: its name or its key stands there twice")
        keys[key.digest] = key
        names.add(key.identity.name)
    return KeyRing(keys)


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
        content = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except ValueError:  # of all three; their words would show parts of the file
        raise _refused(path, "neither TOML nor JSON") from None
    assert isinstance(content, dict)
    return content


def _key(entry: object) -> Key:
    """Errors: ValueError, whose text does not say what stands there."""
    if not isinstance(entry, dict) or entry.keys() - _FIELDS:
        raise ValueError(f"must be a table with {', '.join(sorted(_FIELDS))}, and nothing else")
    name = _name(entry, "name")
    models = entry.get("models")
    if models is not None and not (isinstance(models, list) and all(isinstance(model, str) for model in models)):
        raise ValueError("models: must be a list of names")
    identity = Identity(
        name=name,
        tenant=_name(entry, "tenant") if "tenant" in entry else name,
        permission=Permission(None if models is None else frozenset(models)),
        max_inflight=_count(entry, "max_inflight"),
        requests_per_minute=_count(entry, "requests_per_minute"),
    )
    return Key(_digest(entry.get("sha256")), identity, _time(entry.get("expires")))


def _name(entry: Mapping[str, Any], field: str) -> str:
    name = entry.get(field)
    if not isinstance(name, str) or not ACCEPTED_NAME.fullmatch(name):
        raise ValueError(f"{field}: must be 1 to 128 letters, digits and ._:/+=@-")
    return name


def _digest(given: object) -> bytes:
    try:
        digest = bytes.fromhex(given) if isinstance(given, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("sha256: must be the SHA-256 of the key, as 64 hexadecimal digits")
    return digest


def _count(entry: Mapping[str, Any], field: str) -> int | None:
    count = entry.get(field)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"{field}: must be a whole number above 0")
    return count


def _time(given: object) -> datetime | None:
    """A time without a zone is UTC."""
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        time = None
    if not isinstance(time, datetime):
        raise ValueError(  # noqa: TRY004 - of the file
            "expires: must be a date and time, such as 2030-01-31T00:00:00Z"
        )
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _refused(path: Path, why: str) -> RefusedContentError:
    return RefusedContentError(f"{FLAG}: {path}: {why}")
