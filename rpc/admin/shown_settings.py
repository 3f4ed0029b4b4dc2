"""The settings that hold, for whoever operates the process. None of them is a secret: files hold those."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from rpc.settings import ServiceSettings

_USER_INFO = re.compile(r"(?<=//)[^/@\s]+(?=@)")  # of an address, which may hold a password


def shown(settings: ServiceSettings) -> dict[str, object]:
    """Each option by its name."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path):
        return _USER_INFO.sub("…", str(value))
    return value
