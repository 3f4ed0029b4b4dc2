"""One option's value: from a flag, an environment variable or a TOML file to its declared type. Nothing is guessed.

Text comes from flags and the environment; TOML has types of its own, which must be the declared ones.
"""

from __future__ import annotations

import math
import re
import types
import typing
from decimal import Decimal
from pathlib import Path
from typing import Any

SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class ValueRefused(Exception):  # noqa: N818 - what happened to the value
    """The value does not fit its option; the message goes on from the option's name."""


def is_repeatable(wanted: Any) -> bool:
    """Whether an option of type `wanted` is a list."""
    return typing.get_origin(wanted) is tuple


def parse_value(raw: Any, wanted: Any, *, size: bool = False) -> Any:
    """`raw` as a value of type `wanted`: str, int, float, bool, Path, a Literal, a tuple of one of them, or None too.

    `size`: an int that may have a unit, such as "512MiB". Errors: ValueRefused.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is types.UnionType:
        return parse_value(raw, arguments[0], size=size)
    if origin is tuple:
        items = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(items, list):
            raise ValueRefused(f"must be a list, got {raw!r}")
        return tuple(parse_value(item, arguments[0], size=size) for item in items)
    if origin is typing.Literal:
        if raw not in arguments:
            raise ValueRefused(f"must be one of {', '.join(arguments)}, got {raw!r}")
        return raw
    value = _size(raw) if size else _PARSERS[wanted](raw)
    if value is None:
        raise ValueRefused(f"must be {'a size such as 512MiB' if size else _NAMES[wanted]}, got {raw!r}")
    return value


def check_range(value: Any, at_least: float | None, at_most: float | None) -> None:
    """Refuse a number (each one, of a list) outside the range. Errors: ValueRefused."""
    for number in value if isinstance(value, tuple) else (value,):
        too_small = at_least is not None and number is not None and number < at_least
        too_large = at_most is not None and number is not None and number > at_most
        if too_small or too_large:
            bounds = " and ".join(
                f"{words} {bound}"
                for words, bound in (("at least", at_least), ("at most", at_most))
                if bound is not None
            )
            raise ValueRefused(f"must be {bounds}, got {number}")


def _int(raw: Any) -> int | None:
    if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", raw.strip()):
        return int(raw)
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _float(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _bool(raw: Any) -> bool | None:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return known.get(raw.strip().lower()) if isinstance(raw, str) else (raw if isinstance(raw, bool) else None)


def _text(raw: Any) -> str | None:
    return raw if isinstance(raw, str) and raw else None


def _path(raw: Any) -> Path | None:
    return Path(raw) if _text(raw) else None


def _size(raw: Any) -> int | None:
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", raw) if isinstance(raw, str) else None
    if match is None:
        return _int(raw)
    unit = SIZE_UNITS.get(match[2])
    return None if unit is None else int(Decimal(match[1]) * unit)


_PARSERS: dict[type, Any] = {int: _int, float: _float, bool: _bool, str: _text, Path: _path}
_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text that is not empty",
    Path: "a path",
}
