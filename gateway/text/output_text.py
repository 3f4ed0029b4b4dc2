"""One output on its way to the caller: token ids in, text and ids out, ended by the first stop string.

Text and ids agree: an id leaves once it is certain to be part of the output, and its log-probability leaves with it. So
ids end with the token that completes a match, even where the text ends before it and where the match shows only later
(a run of byte tokens).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from gateway.text.detokenizer import Detokenizer
from gateway.text.stop_strings import StopMatcher
from gateway.text.text_assembler import Span
from gateway.text.token_logprob import TokenLogprob


class Step(NamedTuple):
    """What some ids, or the end of the output, have added."""

    text: str
    token_ids: list[int]  # in the order they were pushed; may belong to earlier pushes
    stop_string: str | None = None  # the match that ends the output here
    logprobs: Sequence[TokenLogprob] = ()  # of the token_ids, if they were pushed with them


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
        self._undecided_logprobs: list[TokenLogprob] = []  # of the same ids
        self._ended = False

    def push(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> Step:
        """Append ids, each with its log-probability, or none of an output's; after a match they are ignored."""
        if self._ended:
            return Step("", [])
        assert not logprobs or len(logprobs) == len(ids)
        self._undecided += ids
        self._undecided_logprobs += logprobs
        return self._step(self._detokenizer.push(ids), self._detokenizer.settled_tokens)

    def finish(self) -> Step:
        """No ids will follow, whatever the reason: the rest of text and ids. Even this may complete a match."""
        if self._ended:
            return Step("", [])
        step = self._step(self._detokenizer.flush(), self._tokens + len(self._undecided))
        self._ended = True
        return step if step.stop_string else step._replace(text=step.text + self._matcher.flush())

    def spelled(self, logprobs: Sequence[TokenLogprob]) -> list[TokenLogprob]:
        """`logprobs` with the text of their tokens."""
        return [logprob.spelled(self._detokenizer.token_text) for logprob in logprobs]

    def _step(self, spans: list[Span], settled_tokens: int) -> Step:
        first = bisect_left(spans, self._min_new_tokens, key=_tokens_of)
        said = self._matcher.skip(_text_of(spans[:first])) if first else ""
        text, match = self._matcher.push(_text_of(spans[first:]))
        if match is None:
            return self._said(said + text, settled_tokens)
        self._ended = True
        return self._said(said + text, _tokens_at(spans[first:], match.end), match.stop_string)

    def _said(self, text: str, tokens: int, stop_string: str | None = None) -> Step:
        """`text`, and the ids up to the output's first `tokens` that have not left yet."""
        taken = tokens - self._tokens
        ids, self._undecided = self._undecided[:taken], self._undecided[taken:]
        logprobs, self._undecided_logprobs = self._undecided_logprobs[:taken], self._undecided_logprobs[taken:]
        self._tokens = tokens
        return Step(text, ids, stop_string, self.spelled(logprobs) if logprobs else ())


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
