"""Marks for control tokens that callers wrote: they stand in for the literals while a template is rendered.

After rendering, a literal without a mark was written by the template and is control; what the marks stand for is
text. The marks are digits, which `upper`, `trim` and `tojson` leave as they are.

A template may also write the rest of a literal around a caller's string: `<|{{ name }}|>`. Beginnings and ends that a
literal could go on from are marked as well, but for words (`user`, `end`), which templates compare: those are
`suspects`, marked by `cautious` marks only (see ChatRendering). The limit: what a template itself makes of a string, by
cutting it open or by changing its letters (`| lower`, `| replace`), is taken for the template's own words.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from tokenizer_service.control.literal_pattern import LiteralParts

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_NONCE_DIGITS = 24  # nobody guesses 80 bits
_INDEX_DIGITS = 6


class Marks:
    """The marks of one rendering. Call `hide` on what the caller wrote, `split` on what the template made of it."""

    def __init__(self, literals: re.Pattern[str], parts: LiteralParts, *, cautious: bool) -> None:
        self._literals = literals
        self._parts = parts
        self._cautious = cautious
        self.suspects: set[str] = set()  # parts of literals that are words, or all of a caller's string
        self._nonce = _digits()
        self._hidden: list[str] = []
        self._mark_of: dict[str, str] = {}
        # Stands where a last message is left open; not a mark, so that hiding and splitting pass it by.
        self.open_end = _digits()

    def hide(self, value: Json) -> Json:
        """Return `value` with a mark in place of each literal, in keys and values at any depth.

        Parts of literals at the borders are marked too: the template's words around must not complete them.
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
        between = self._literals.split(text)
        literals = [self._mark(literal) for literal in between[1::2]]
        texts = self._without_borders(between[::2])
        return "".join(part for pair in zip_longest(texts, literals, fillvalue="") for part in pair)

    def _without_borders(self, texts: list[str]) -> list[str]:
        """Return `texts`, what stands around the literals of one string, marked where its two borders could join."""
        core = texts[0].strip()
        if len(texts) == 1 and self._parts.is_inside(core):
            self.suspects.add(core)
            if self._cautious:
                return [texts[0].replace(core, self._mark(core))]
        head, texts[0] = self._without_head(texts[0])
        texts[-1], tail = self._without_tail(texts[-1])
        texts[0] = head + texts[0]
        texts[-1] += tail
        return texts

    def _without_head(self, text: str) -> tuple[str, str]:
        """Return the marked head of `text`, if it has one, and the rest; also behind white space: templates trim."""
        for start in (0, len(text) - len(text.lstrip())):
            end = start + self._parts.head(text[start:])
            if start < end and self._is_marked(text[start:end]):
                return text[:start] + self._mark(text[start:end]), text[end:]
        return "", text

    def _without_tail(self, text: str) -> tuple[str, str]:
        """Return `text` without its tail, if it has one, and the marked tail; also before white space."""
        for end in (len(text), len(text.rstrip())):
            start = end - self._parts.tail(text[:end])
            if start < end and self._is_marked(text[start:end]):
                return text[:start], self._mark(text[start:end]) + text[end:]
        return text, ""

    def _is_marked(self, part: str) -> bool:
        is_word = part.isalnum() or part.isspace()
        if is_word:
            self.suspects.add(part)
        return self._cautious or not is_word

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
