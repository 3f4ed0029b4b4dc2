"""Settings of a service: one frozen dataclass, each option declared once.

Where a value comes from, first match wins: flag, environment variable `TOKENMILL_…`, TOML file (`--config`), default.
Unknown flags and unknown keys of the file are refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rpc.log import LogFormat

PREFIX = "TOKENMILL_"
SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
SettingsType = TypeVar("SettingsType", bound="ServiceSettings")


class SettingsError(Exception):
    """An option that is unknown, missing or out of range; the message is one line for people."""


def option(
    help_text: str,
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    size: bool = False,
) -> Any:
    """Declare one option. `size` accepts "512MiB" as well as bytes; without a default the option must be given."""
    metadata = {"help": help_text, "at_least": at_least, "at_most": at_most, "size": size}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every service can be told."""

    host: str = option("address to listen on", "127.0.0.1")
    port: int = option("port to listen on; 0 picks a free one", at_least=0, at_most=65535)
    config: Path | None = option("TOML file with options; flags and environment variables win over it", None)
    log_format: LogFormat = option("how log lines look", "console")
    log_level: typing.Literal["debug", "info", "warning", "error"] = option("least level that is logged", "info")
    drain_seconds: float = option(
        "after SIGTERM: how long to go on accepting calls while load balancers learn that we are not ready",
        1.0,
        at_least=0,
        at_most=600,
    )
    grace_seconds: float = option(
        "after that: how long running calls may take to finish before they are cancelled",
        30.0,
        at_least=0,
        at_most=86400,
    )
    reflection: bool = option("answer gRPC server reflection", True)


def load_settings(
    settings_type: type[SettingsType], program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> SettingsType:
    """Collect the settings of one service from its four sources. Errors: SettingsError."""
    fields = {field.name: field for field in dataclasses.fields(settings_type)}
    types_of = typing.get_type_hints(settings_type)
    given = _flags(settings_type, program, arguments)
    from_environment = {
        name: environment[PREFIX + name.upper()] for name in fields if PREFIX + name.upper() in environment
    }
    file = given.get("config", from_environment.get("config"))
    from_file = _file(Path(file)) if file else {}
    if unknown := sorted(from_file.keys() - fields.keys()):
        raise SettingsError(f"{file}: unknown option {unknown[0]!r}")
    values = {}
    for name, raw in {**from_file, **from_environment, **given}.items():
        flag = "--" + name.replace("_", "-")
        values[name] = _checked(flag, raw, types_of[name], fields[name].metadata)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise SettingsError(f"--{name.replace('_', '-')} is required")
    return settings_type(**values)


def from_command_line(settings_type: type[SettingsType], program: str, arguments: Sequence[str]) -> SettingsType:
    """`load_settings` for a `__main__`: an error is one line on stderr and exit code 2."""
    try:
        return load_settings(settings_type, program, arguments, os.environ)
    except SettingsError as error:
        exit_with(program, str(error))


def exit_with(program: str, message: str) -> NoReturn:
    """End the process with one clear line and exit code 2."""
    argparse.ArgumentParser(prog=program, usage=argparse.SUPPRESS).exit(2, f"{program}: {message}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _flags(settings_type: type[ServiceSettings], program: str, arguments: Sequence[str]) -> dict[str, Any]:
    parser = _Parser(prog=program, allow_abbrev=False, description=settings_type.__doc__)
    types_of = typing.get_type_hints(settings_type)
    for field in dataclasses.fields(settings_type):
        default = "required" if field.default is dataclasses.MISSING else f"default: {_shown(field.default)}"
        help_text = f"{field.metadata['help']} ({default})".replace("%", "%%")
        flag = "--" + field.name.replace("_", "-")
        if types_of[field.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text)
        else:
            action = "append" if typing.get_origin(types_of[field.name]) is tuple else "store"
            choices = typing.get_args(types_of[field.name])
            metavar = "|".join(choices) if typing.get_origin(types_of[field.name]) is typing.Literal else "VALUE"
            parser.add_argument(flag, action=action, default=argparse.SUPPRESS, metavar=metavar, help=help_text)
    return vars(parser.parse_args(list(arguments)))


def _shown(default: object) -> str:
    if default is None or default == ():
        return "none"
    return str(default)


def _file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: not TOML: {error}") from error
    return {key.replace("-", "_"): value for key, value in content.items()}


def _checked(flag: str, raw: Any, wanted: Any, metadata: Mapping[str, Any]) -> Any:
    value = _parsed(flag, raw, wanted, size=metadata["size"])
    for one in value if isinstance(value, tuple) else (value,):
        too_small = metadata["at_least"] is not None and one is not None and not one >= metadata["at_least"]
        too_large = metadata["at_most"] is not None and one is not None and not one <= metadata["at_most"]
        if too_small or too_large:
            bounds = (metadata["at_least"], metadata["at_most"])
            raise SettingsError(f"{flag}: {one} is outside {bounds[0]} to {'any' if bounds[1] is None else bounds[1]}")
    return value


def _parsed(flag: str, raw: Any, wanted: Any, *, size: bool) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is types.UnionType or origin is typing.Union:
        return _parsed(flag, raw, next(a for a in arguments if a is not type(None)), size=size)
    if origin is tuple:
        items = raw.split(",") if isinstance(raw, str) else raw
        return tuple(_parsed(flag, item, arguments[0], size=size) for item in items)
    if origin is typing.Literal:
        if raw not in arguments:
            raise SettingsError(f"{flag}: {raw!r} is not one of {', '.join(map(str, arguments))}")
        return raw
    if wanted is bool:
        return _boolean(flag, raw)
    try:
        return _size(str(raw)) if size else wanted(raw)
    except ValueError:
        raise SettingsError(f"{flag}: {raw!r} is not {'a size' if size else f'of type {wanted.__name__}'}") from None


def _boolean(flag: str, raw: Any) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return known[str(raw).lower()]
    except KeyError:
        raise SettingsError(f"{flag}: {raw!r} is not true or false") from None


def _size(raw: str) -> int:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", raw)
    if not match or match[2] not in SIZE_UNITS:
        raise ValueError(raw)
    return int(float(match[1]) * SIZE_UNITS[match[2]])
