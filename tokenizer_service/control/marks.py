"""Marks for control tokens that callers wrote: they stand in for the literals while a template is rendered.

After rendering, a literal without a mark was written by the template and is control; what the marks stand for is
text. The marks are digits, which `upper`, `trim` and `tojson` leave as they are.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping

from tokenizer_service.control.literal_pattern import PrefixTails

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_NONCE_DIGITS = 24  # nobody guesses 80 bits
_INDEX_DIGITS = 6


class Marks:
    """The marks of one rendering. Call `hide` on what the caller wrote, `split` on what the template made of it."""

    def __init__(self, literals: re.Pattern[str], tails: PrefixTails) -> None:
        self._literals = literals
        self._tails = tails
        self._nonce = _digits()
        self._hidden: list[str] = []
        self._mark_of: dict[str, str] = {}
        # Stands where a last message is left open; not a mark, so that hiding and splitting pass it by.
        self.open_end = _digits()

    def hide(self, value: Json) -> Json:
        """Return `value` with a mark in place of each literal, in keys and values at any depth.

        An end that begins a literal is marked too: the template's next words must not complete it.
        """
        if isinstance(value, str):
            return self.hide_text(value)
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, Mapping):
            return {self.hide_text(key): self.hide(item) for key, item in value.items()}
        return value

    def hide_text(self, text: str) -> str:
        """`hide` for a string."""
        assert self._nonce not in text
        assert self.open_end not in text
        hidden = self._literals.sub(lambda match: self._mark(match[0]), text)
        tail = self._tails.start(hidden)
        return hidden if tail == len(hidden) else hidden[:tail] + self._mark(hidden[tail:])

    def split(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """Yield the parts of a rendered text in order, each with whether a mark stood for it."""
        text, *marked = rendered.split(self._nonce)
        yield text, False
        for part in marked:
            index, text = part[:_INDEX_DIGITS], part[_INDEX_DIGITS:]
            if index.isdecimal() and int(index) < len(self._hidden):
                yield self._hidden[int(index)], True
                yield text, False
            else:  # the template cut through the mark: its rest is text like any other
                yield part, False

    def _mark(self, hidden: str) -> str:
        if hidden not in self._mark_of:
            self._mark_of[hidden] = f"{self._nonce}{len(self._hidden):0{_INDEX_DIGITS}}"
            self._hidden.append(hidden)
        return self._mark_of[hidden]


def _digits() -> str:
    return str(secrets.randbelow(9 * 10 ** (_NONCE_DIGITS - 1)) + 10 ** (_NONCE_DIGITS - 1))
