"""Text of tokens that are pieces of text, where a run of byte tokens has to be read as a whole.

A run is held back until it ends or can no longer be UTF-8, since any later byte could turn all of it into U+FFFD. A
shorter bound would break the law that deltas sum to the decode. What is held is one byte per token of the run, so at
most the output's own token limit.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.text.text_assembler import Piece, Span

_REPLACEMENT = "\ufffd"


class TextSource(Protocol):
    """What the assembler asks of a vocabulary."""

    def __getitem__(self, token_id: int, /) -> Piece:
        """Text inside a text, the byte of a byte token, or None for a token that is skipped."""
        ...

    def text_at_start(self, ids: list[int]) -> str:
        """What `ids` decode to where a text begins."""
        ...

    def text_inside(self, ids: list[int]) -> str:
        """What `ids` add to a text that has begun."""
        ...


class FallbackText:
    """The TextAssembler of this family. Each character counts to the token of its last byte."""

    def __init__(self, pieces: TextSource, tokens: int) -> None:
        self._pieces = pieces
        self._tokens = tokens
        self._head: list[int] | None = []  # the tokens so far, while they decode to nothing; None once there is text
        self._run: _ByteRun | None = None

    @property
    def settled_tokens(self) -> int:
        """Everything before the run of byte tokens that is held back."""
        return self._run.numbers[0] - 1 if self._run and self._run.numbers else self._tokens

    def push(self, ids: Iterable[int]) -> list[Span]:
        """Append tokens and return the text that no later token can change."""
        spans: list[Span] = []
        for token_id in ids:
            self._tokens += 1
            piece = self._pieces[token_id]
            if piece is None:
                continue
            if isinstance(piece, bytes):
                text = self._push_byte(token_id, piece)
            else:
                spans += self._end_run()
                text = piece if self._head is None else self._begin([token_id])
            if text:
                spans.append(Span(text, self._tokens))
        return spans

    def rest(self) -> list[Span]:
        """The text of the run that is held back, as if it ended here."""
        return self._run.spans(self._text(self._run.ids)) if self._run and self._run.ids else []

    def _push_byte(self, token_id: int, byte: bytes) -> str:
        self._run = self._run or _ByteRun()
        text = self._run.push(token_id, byte, self._tokens)
        if text:
            self._head = None
        return text

    def _end_run(self) -> list[Span]:
        if self._run is None:
            return []
        spans = self.rest()
        self._begin(self._run.ids)
        self._run = None
        return spans

    def _begin(self, ids: list[int]) -> str:
        text = self._text(ids)
        if self._head is not None:
            self._head = None if text else self._head + ids
        return text

    def _text(self, ids: list[int]) -> str:
        # A head decodes to nothing, so that all of the text is that of `ids`.
        return self._pieces.text_inside(ids) if self._head is None else self._pieces.text_at_start(self._head + ids)


@dataclass(slots=True)
class _ByteRun:
    """Consecutive byte tokens. While they are UTF-8 they are held; after that each one is U+FFFD and none is."""

    ids: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # the tokens' numbers: skipped ones may stand between them
    data: bytearray = field(default_factory=bytearray)
    open: bytes = b""  # the beginning of a character at the end of `data`
    broken: bool = False

    def push(self, token_id: int, byte: bytes, number: int) -> str:
        """Append a byte token; returns the U+FFFD that have become certain."""
        if self.broken:
            return _REPLACEMENT
        try:
            _, used = utf_8_decode(self.open + byte, "strict", False)
        except UnicodeDecodeError:
            text = _REPLACEMENT * (len(self.ids) + 1)
            self.ids, self.numbers, self.broken = [], [], True
            return text
        self.open = (self.open + byte)[used:]
        self.ids.append(token_id)
        self.numbers.append(number)
        self.data += byte
        return ""

    def spans(self, text: str) -> list[Span]:
        """`text`, which the library decodes this run to, character by character with their tokens."""
        if self.open or text != self.data.decode():
            return [Span(text, self.numbers[-1])] if text else []
        spans, end = [], 0
        for character in text:
            end += len(character.encode())
            spans.append(Span(character, self.numbers[end - 1]))
        return spans
