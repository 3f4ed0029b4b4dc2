"""The seam between a tokenizer family and the detokenizer: pieces of tokens in, text out, one token at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

Piece = str | bytes | None
"""What one token adds: text of its own, bytes that may need their neighbours, or nothing."""


class Span(NamedTuple):
    """Some text of an output, and the token that completes it."""

    text: str
    tokens: int  # the text is complete with this many tokens of the output; grows from span to span


class TextAssembler(Protocol):
    """The text of a growing sequence of tokens. What it has said once never changes.

    Tokens are numbered from 1, those of the prompt's tail from `1 - len(tail)` to 0.
    """

    @property
    def settled_tokens(self) -> int:
        """Number of the last token whose text has been said; what follows it is still open."""
        ...

    def push(self, ids: Iterable[int]) -> list[Span]:
        """Append tokens and return the text that no later token can change."""
        ...

    def rest(self) -> list[Span]:
        """The text of the open tokens if none came after them. Changes nothing."""
        ...


class PieceTable(Protocol):
    """The pieces of one vocabulary, computed when first asked for (so at most one entry per known token)."""

    def __getitem__(self, token_id: int, /) -> Piece:
        """The piece of a token; an id outside the vocabulary adds nothing."""
        ...

    def assembler(self, prompt_tokens: int) -> TextAssembler:
        """A new text; its first `prompt_tokens` tokens are the prompt's tail."""
        ...
