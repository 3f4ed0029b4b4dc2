"""Who asks: the tenant that a call's metadata names, and what the operator says of tenants."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from rpc.errors import invalid_field

# Bounded, and safe to print: as for request ids.
ACCEPTED_NAME = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# What gRPC lets a key be; one that ends with -bin has bytes as its value.
_KEY = re.compile(r"(?!grpc-)[a-z0-9_.-]{1,128}(?<!-bin)")


class TenantSettingError(Exception):
    """A setting about tenants cannot be; the message is for people."""


def tenant_of(metadata: Iterable[tuple[str, str | bytes]], key: str) -> str:
    """The tenant that the value of `key` names; empty: nobody is named. Errors: ServiceError."""
    for own, value in metadata:
        if own == key:
            if not isinstance(value, str) or not ACCEPTED_NAME.fullmatch(value):
                raise invalid_field(key, "metadata must be 1 to 128 letters, digits and ._:/+=@-")
            return value
    return ""


def check_key(key: str) -> None:
    """Refuse what no metadata can have as its key. Errors: TenantSettingError."""
    if not _KEY.fullmatch(key):
        raise TenantSettingError(f"--tenant-key: {key!r} is no key of text metadata (lower case)")


def weights_from(settings: Sequence[str]) -> dict[str, float]:
    """From "name=number" to weights by name. Errors: TenantSettingError."""
    weights = {}
    for setting in settings:
        name, _, number = setting.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not ACCEPTED_NAME.fullmatch(name) or not 0 < weight < math.inf:
            raise TenantSettingError(f"--tenant-weight: must be NAME=NUMBER, the number above 0, got {setting!r}")
        weights[name] = weight
    return weights
