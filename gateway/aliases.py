"""Names that lead to a model or an adapter, so that what answers to a name can change without its callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class AliasError(ValueError):
    """An alias that leads nowhere; the message says which and why."""


def parse_aliases(texts: Sequence[str]) -> dict[str, str]:
    """The model behind each name, from `NAME=MODEL`, where MODEL may be an alias too. Errors: AliasError."""
    given: dict[str, str] = {}
    for text in texts:
        name, _, model = text.partition("=")
        if not name or not model or "=" in model or any(character.isspace() for character in text):
            raise AliasError(f"{text!r} is not NAME=MODEL")
        if name in given:
            raise AliasError(f"the alias {name!r} is given twice")
        given[name] = model
    return {name: _end(name, given) for name in given}


def _end(name: str, given: Mapping[str, str]) -> str:
    passed = [name]
    while passed[-1] in given:
        model = given[passed[-1]]
        if model in passed:
            raise AliasError(f"the alias {name!r} leads in a circle: {' = '.join([*passed, model])}")
        passed.append(model)
    return passed[-1]
