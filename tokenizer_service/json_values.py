"""JSON that callers give, as text or as a Struct, made safe for templates: finite, not too deep, and Unicode."""

from __future__ import annotations

import json
import math
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from tokenizer_service.errors import InvalidInput

# Everything after us walks the values recursively. JSON Schemas of tools are some ten levels deep.
MAX_DEPTH = 100
# Doubles are exact up to here; what is larger was not written as an integer.
_MAX_WHOLE_NUMBER = 2**53


def json_object(text: str, field: str) -> dict[str, Any]:
    """JSON text as an object; empty text as an empty one. Errors: InvalidInput naming `field`."""
    try:
        value = json.loads(text, parse_constant=_no_number) if text else {}
    except (ValueError, RecursionError):
        raise InvalidInput(field, "is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput(field, "is not a JSON object")
    _check(value, field)
    return value


def plain_json(struct: Struct, field: str) -> dict[str, Any]:
    """A Struct as JSON values; its numbers are doubles, so whole ones become integers again, as people write them.

    Errors: InvalidInput naming `field`.
    """
    plain = {name: _plain(value) for name, value in struct.fields.items()}
    _check(plain, field)
    return plain


def _check(value: Any, field: str, depth: int = 1) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput(field, "has a string with half a surrogate pair, which is no Unicode text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(field, "has a number that is not finite")
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise InvalidInput(field, f"is nested deeper than {MAX_DEPTH} levels")
        for item in value:
            _check(item, field, depth + 1)
        if isinstance(value, dict):
            for item in value.values():
                _check(item, field, depth + 1)


def _plain(value: Value) -> Any:
    # Recursive without a check of its own: protobuf refuses messages nested deeper than 100 levels.
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: _plain(item) for name, item in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _MAX_WHOLE_NUMBER else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _no_number(name: str) -> None:
    raise ValueError(name)
