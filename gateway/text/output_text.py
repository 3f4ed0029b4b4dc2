"""One output on its way to the caller: token ids in, text and ids out, ended by the first stop string.

Text and ids agree: an id leaves once it is certain to be part of the output. So ids end with the token that completes
a match, even where the text ends before it and where the match shows only later (a run of byte tokens).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from gateway.text.detokenizer import Detokenizer
from gateway.text.stop_strings import StopMatcher
from gateway.text.text_assembler import Span


class Step(NamedTuple):
    """What some ids, or the end of the output, have added."""

    text: str
    token_ids: list[int]  # in the order they were pushed; may belong to earlier pushes
    stop_string: str | None = None  # the match that ends the output here


class OutputText:
    """The text of one output. Owned by the task that reads the output's ids.

    A match counts if the token that completes it is the `min_new_tokens`th of the output or a later one.
    """

    def __init__(self, detokenizer: Detokenizer, matcher: StopMatcher, min_new_tokens: int = 0) -> None:
        self._detokenizer = detokenizer
        self._matcher = matcher
        self._min_new_tokens = min_new_tokens
        self._tokens = 0  # ids that have left
        self._undecided: list[int] = []  # ids after those
        self._ended = False

    def push(self, ids: Sequence[int]) -> Step:
        """Append ids; after a match they are ignored."""
        if self._ended:
            return Step("", [])
        self._undecided += ids
        return self._step(self._detokenizer.push(ids), self._detokenizer.settled_tokens)

    def finish(self) -> Step:
        """No ids will follow, whatever the reason: the rest of text and ids. Even this may complete a match."""
        if self._ended:
            return Step("", [])
        step = self._step(self._detokenizer.flush(), self._tokens + len(self._undecided))
        self._ended = True
        return step if step.stop_string else step._replace(text=step.text + self._matcher.flush())

    def _step(self, spans: list[Span], settled_tokens: int) -> Step:
        first = bisect_left(spans, self._min_new_tokens, key=_tokens_of)
        said = self._matcher.skip(_text_of(spans[:first])) if first else ""
        text, match = self._matcher.push(_text_of(spans[first:]))
        if match is None:
            return Step(said + text, self._take_ids(settled_tokens))
        self._ended = True
        return Step(said + text, self._take_ids(_tokens_at(spans[first:], match.end)), match.stop_string)

    def _take_ids(self, tokens: int) -> list[int]:
        taken = tokens - self._tokens
        ids, self._undecided = self._undecided[:taken], self._undecided[taken:]
        self._tokens = tokens
        return ids


def _tokens_of(span: Span) -> int:
    return span.tokens


def _text_of(spans: list[Span]) -> str:
    return "".join([span.text for span in spans])


def _tokens_at(spans: list[Span], end: int) -> int:
    """The number of tokens that complete the first `end` characters of the spans' text."""
    for span in spans:
        end -= len(span.text)
        if end <= 0:
            return span.tokens
    raise AssertionError("the match ends within the text it was found in")
