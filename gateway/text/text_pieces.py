"""Tokenizers whose tokens are pieces of text (SentencePiece, Metaspace, word-piece), with or without byte fallback.

A token adds the same text wherever it stands, but for two cases. At the very beginning of a text the library treats it
differently (no leading space, no `##`). And a run of `<0xXX>` tokens is one character sequence or, if its bytes are not
UTF-8 as a whole, one U+FFFD per byte: E4 BD A0 is a character, E4 BD A0 FF is four U+FFFD.
"""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from gateway.text.byte_fallback import FallbackText
from gateway.text.text_assembler import Piece

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class UndecodableVocabularyError(Exception):
    """No token of the vocabulary decodes to text."""


class TextPieces(dict[int, Piece]):
    """Text of a token after other text; the byte of a byte-fallback token; None for a token that is skipped."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[str], *, byte_fallback: bool) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._byte_fallback = byte_fallback
        self._anchor = self._find_anchor()
        self._anchor_length = len(self.text_at_start([self._anchor]))

    def __missing__(self, token_id: int) -> Piece:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return None
        self[token_id] = piece = self._piece(token_id, token)
        return piece

    def assembler(self, prompt_tokens: int) -> FallbackText:
        """A new text; its first `prompt_tokens` tokens are the prompt's tail."""
        return FallbackText(self, -prompt_tokens)

    def text_at_start(self, ids: list[int]) -> str:
        """What `ids` (no skipped ones) decode to where a text begins."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def text_inside(self, ids: list[int]) -> str:
        """What `ids` (no skipped ones) add to a text that has begun."""
        return self.text_at_start([self._anchor, *ids])[self._anchor_length :]

    def _piece(self, token_id: int, token: str) -> Piece:
        if token in self._skipped:
            return None
        if byte := self._byte_of(token):
            return byte
        return self.text_inside([token_id])

    def _byte_of(self, token: str) -> bytes | None:
        match = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        return bytes.fromhex(match[1]) if match else None

    def _find_anchor(self) -> int:
        """A token that is text even at the beginning: put before others, it shows what they are elsewhere."""
        for token_id in range(self._tokenizer.get_vocab_size()):
            token = self._tokenizer.id_to_token(token_id)
            if token and self._byte_of(token) is None and self.text_at_start([token_id]).strip():
                return token_id
        raise UndecodableVocabularyError("no token of the vocabulary decodes to text")
