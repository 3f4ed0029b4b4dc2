"""A service's options, as what `config:` of its tier may hold: JSON Schema from the settings class.

Left out is what the chart decides itself, so that nobody can set it twice.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from gateway.settings import GatewaySettings
from model_worker.settings import WorkerSettings
from rpc.option_values import SIZE_UNITS, is_repeatable
from rpc.settings import ServiceSettings
from tokenizer_service.settings import TokenizerSettings

SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "tokenizer": TokenizerSettings,
    "worker": WorkerSettings,
}
# By the chart, beside all files and ports: where a service is, whom it knows, what it serves, how long it takes to end.
DECIDED = {
    "gateway": {"tokenizer", "worker", "jwt_issuer", "jwt_audience", "backend_ssl_server_name"},
    "tokenizer": {"model"},
    "worker": {"worker_id", "served_model_name", "device", "device_map", "lora_modules"},
}
DECIDED_OF_ALL = {"host", "drain_seconds", "grace_seconds", "max_connection_age_seconds", "ssl_client_names"}
# Of others: no file is theirs, but the chart has a place of its own for them.
_DECIDED_ENDINGS = ("port", "_endpoint")
LARGEST_EXACT = 2**53  # Helm reads numbers as floats
_OF_TYPE: dict[type, dict[str, Any]] = {bool: {"type": "boolean"}, str: {"type": "string", "minLength": 1}}
_NUMBERS = {int: "integer", float: "number"}
_SIZE_PATTERN = rf"^\s*[0-9]{{1,20}}(\.[0-9]{{1,9}})?\s*({'|'.join(SIZE_UNITS)})\s*$"


def config_schema(tier: str) -> dict[str, Any]:
    """What `config:` of the tier may hold."""
    settings = SETTINGS[tier]
    types_of = typing.get_type_hints(settings)
    options = {
        field.name: {**_schema(types_of[field.name], field.metadata), "description": field.metadata["help"]}
        for field in dataclasses.fields(settings)
        if not is_decided(tier, field.name, types_of[field.name])
    }
    return {"type": "object", "properties": options}


def is_decided(tier: str, name: str, wanted: Any) -> bool:
    """Whether the chart says this itself."""
    by_name = name in DECIDED[tier] | DECIDED_OF_ALL or name.endswith(_DECIDED_ENDINGS)
    return by_name or Path in (wanted, *typing.get_args(wanted))


def _schema(wanted: Any, metadata: Any) -> dict[str, Any]:
    arguments = typing.get_args(wanted)
    if typing.get_origin(wanted) is types.UnionType:  # or None, which in a file is not to say anything
        return _schema(arguments[0], metadata)
    if is_repeatable(wanted):
        return {"type": "array", "items": _schema(arguments[0], metadata)}
    if typing.get_origin(wanted) is typing.Literal:
        return {"enum": list(arguments)}
    if metadata["size"]:
        return {"anyOf": [_number("integer", metadata), {"type": "string", "pattern": _SIZE_PATTERN}]}
    return _OF_TYPE[wanted] if wanted in _OF_TYPE else _number(_NUMBERS[wanted], metadata)


def _number(kind: str, metadata: Any) -> dict[str, Any]:
    at_least, at_most = metadata["at_least"], metadata["at_most"]
    most = LARGEST_EXACT if at_most is None else min(at_most, LARGEST_EXACT)
    bounds = {} if at_least is None else {"minimum": at_least}
    return {"type": kind, **bounds, "maximum": most}
