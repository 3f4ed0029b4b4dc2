"""The jinja environment of chat templates, with the semantics that transformers gives them.

Imported by the render process only. Source of the semantics: transformers 5.23, `utils/chat_template_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text for training; here it only shows its body.

    The body is a scope of its own, as in transformers: what it sets is gone after the end tag.
    """

    tags = {"generation"}  # noqa: RUF012 - declared by jinja as a plain class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Turn the block into a call that returns what it rendered."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller: Callable[[], str]) -> str:
        return caller()


class PlainDict:
    """`dict` for templates: makes dictionaries, without handing out the class and what hangs on it."""

    def __call__(self, *pairs: Any, **items: Any) -> dict[Any, Any]:
        """As `dict`."""
        return dict(*pairs, **items)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(keys, value)


class GuardedNamespace(Namespace):
    """`namespace` for templates; names with a leading underscore are refused, they could reach into Python."""

    def __init__(self, /, *pairs: Any, **items: Any) -> None:
        for name in dict(*pairs, **items):
            _refuse_underscore(name)
        super().__init__(*pairs, **items)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: names must not start with an underscore")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001 - templates pass these by position or by name
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001
) -> str:
    """JSON as models were trained on it: jinja's own filter escapes HTML and sorts the keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:  # noqa: A002 - templates may pass it by name
    return datetime.now().strftime(format)  # noqa: DTZ005 - templates show the local date


def chat_environment() -> ImmutableSandboxedEnvironment:
    """Return a sandboxed environment: no access to Python's internals, no changes to what was passed in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    functions: Mapping[str, object] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": PlainDict(),
        "namespace": GuardedNamespace,
    }
    environment.globals.update(functions)
    return environment
