"""What a scripted worker is told: how fast it is, what it says, and what goes wrong when. Read from a JSON file.

Every field may be left out, none may be unknown, and every number has a bound: docs/scripted-worker.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from model_worker.loading.json_file import read_json_object
from model_worker.loading.load_errors import ScriptError

Strike: TypeAlias = Literal["stall", "fail_row", "out_of_memory", "break", "exit"]

_MAX_TOKENS = 2**24  # of a context or an arena: 200 MB of the fake engine's memory
_MAX_SAID = 100_000
_MAX_FAULTS = 1000
_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What goes wrong, and when: at one step, or when a row draws its next token after `after_tokens` generated ones.

    Exactly one of `at_step` and `prompt_has` is given.
    """

    what: Strike
    at_step: int | None = None  # counted from 1, which is that of the warm-up
    prompt_has: int | None = None  # strikes rows whose prompt has this token
    after_tokens: int = 0
    seconds: float = 0.0  # of a stall


@dataclass(frozen=True, slots=True)
class Script:
    """How a scripted worker behaves."""

    ids: tuple[int, ...] = ()  # said over and over; none: the arithmetic of the fake engine
    seconds_per_step: float = 0.0
    seconds_per_token: float = 0.0  # on top, for every token of a step, those of prompts included
    context_length: int = 4096
    kv_capacity_tokens: int | None = None  # None: eight contexts, as far as is allowed
    eos_token_id: int | None = None
    eos_after: int | None = None  # an output ends with `eos_token_id` after so many tokens
    faults: tuple[FaultRule, ...] = ()

    @property
    def capacity(self) -> int:
        """Tokens that the arena holds."""
        return self.kv_capacity_tokens or min(8 * self.context_length, _MAX_TOKENS)


def read_script(file: Path, vocabulary_size: int) -> Script:
    """Return what `file` says; its ids are below `vocabulary_size`. Errors: LoadError, naming file and field."""
    fields = _Fields(read_json_object(file), f"{file}: ")
    script = Script(
        ids=fields.ids("ids", vocabulary_size),
        seconds_per_step=fields.number("seconds_per_step", _MAX_SECONDS) or 0.0,
        seconds_per_token=fields.number("seconds_per_token", _MAX_SECONDS) or 0.0,
        context_length=fields.integer("context_length", 2, _MAX_TOKENS) or Script().context_length,
        kv_capacity_tokens=fields.integer("kv_capacity_tokens", 1, _MAX_TOKENS),
        eos_token_id=fields.integer("eos_token_id", 0, vocabulary_size - 1),
        eos_after=fields.integer("eos_after", 0, _MAX_TOKENS),
        faults=tuple(_fault_rule(one) for one in fields.objects("faults", _MAX_FAULTS)),
    )
    fields.check_all_taken()
    if script.eos_after is not None and script.eos_token_id is None:
        raise ScriptError(f"{file}: eos_after needs eos_token_id")
    return script


def _fault_rule(fields: _Fields) -> FaultRule:
    rule = FaultRule(
        what=cast("Strike", fields.choice("what", get_args(Strike))),
        at_step=fields.integer("at_step", 1, 2**53),
        prompt_has=fields.integer("prompt_has", 0, 2**31 - 1),
        after_tokens=fields.integer("after_tokens", 0, _MAX_TOKENS) or 0,
        seconds=fields.number("seconds", _MAX_SECONDS) or 0.0,
    )
    fields.check_all_taken()
    if (rule.at_step is None) == (rule.prompt_has is None):
        raise ScriptError(f"{fields.place}needs one of at_step and prompt_has")
    if rule.after_tokens and rule.prompt_has is None:
        raise ScriptError(f"{fields.place}after_tokens needs prompt_has")
    if (rule.what == "stall") != (rule.seconds > 0):
        raise ScriptError(f"{fields.place}seconds are for a stall, which needs them")
    return rule


class _Fields:
    """The fields of one JSON object, each taken once; `place` names it in errors. Errors: ScriptError."""

    def __init__(self, fields: Mapping[str, Any], place: str) -> None:
        self._left = dict(fields)
        self.place = place

    def number(self, name: str, most: float) -> float | None:
        """A number from 0 to `most`; None where it is absent."""
        value: float | None = self._left.pop(name, None)
        if value is not None and not (_is_number(value) and 0 <= value <= most):
            raise self._refused(name, f"a number from 0 to {most:g}", value)
        return value

    def integer(self, name: str, least: int, most: int) -> int | None:
        """An integer from `least` to `most`; None where it is absent."""
        value: int | None = self._left.pop(name, None)
        if value is not None and not _is_integer(value, least, most):
            raise self._refused(name, f"an integer from {least} to {most}", value)
        return value

    def ids(self, name: str, vocabulary_size: int) -> tuple[int, ...]:
        """A list of token ids; empty where it is absent."""
        values = self._list(name, _MAX_SAID)
        for place, value in enumerate(values):
            if not _is_integer(value, 0, vocabulary_size - 1):
                raise self._refused(f"{name}[{place}]", f"a token id below {vocabulary_size}", value)
        return tuple(values)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`, which has to be there."""
        value = self._left.pop(name, None)
        if value not in choices:
            raise self._refused(name, f"one of {', '.join(choices)}", value)
        return str(value)

    def objects(self, name: str, most: int) -> list[_Fields]:
        """A list of objects; empty where it is absent."""
        values = self._list(name, most)
        for place, value in enumerate(values):
            if not isinstance(value, dict):
                raise self._refused(f"{name}[{place}]", "an object", value)
        return [_Fields(value, f"{self.place}{name}[{place}].") for place, value in enumerate(values)]

    def check_all_taken(self) -> None:
        """Refuse what nobody asked for: it may be a misspelt field."""
        for name in self._left:
            raise ScriptError(f"{self.place}{name[:80]} is unknown")

    def _list(self, name: str, most: int) -> list[Any]:
        value = self._left.pop(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise self._refused(name, f"a list of at most {most}", value)
        return value

    def _refused(self, name: str, wanted: str, value: object) -> ScriptError:
        return ScriptError(f"{self.place}{name} must be {wanted}, not {value!r:.80}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
