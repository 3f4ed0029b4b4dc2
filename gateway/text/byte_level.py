"""Byte-level tokenizers (GPT-2, Llama 3, Qwen, SmolLM): a text is the bytes of its tokens, read as UTF-8.

Bytes that are no UTF-8 become U+FFFD, one per maximal subpart, as the Unicode standard recommends; Python and the
`tokenizers` library agree on that. So at most three bytes, the beginning of a character, are ever held back.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable

from tokenizers import Tokenizer

from gateway.text.text_assembler import Piece, Span


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a vocabulary, as GPT-2 defined it.

    Printable Latin-1 characters stand for themselves, the other bytes, in order, for the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + position): byte for position, byte in enumerate(others)}


class ByteLevelPieces(dict[int, Piece]):
    """Text where a token is whole characters, else its bytes; None for a token that adds nothing."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[str]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._alphabet = _byte_alphabet()

    def __missing__(self, token_id: int) -> Piece:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return None
        self[token_id] = piece = self._piece(token)
        return piece

    def assembler(self, prompt_tokens: int) -> ByteLevelText:
        """A new text; its first `prompt_tokens` tokens are the prompt's tail."""
        return ByteLevelText(self, -prompt_tokens)

    def _piece(self, token: str) -> Piece:
        if not token or token in self._skipped:
            return None
        if all(character in self._alphabet for character in token):
            data = bytes(self._alphabet[character] for character in token)
        else:
            data = token.encode()  # an added token, spelled as it reads
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data


class ByteLevelText:
    """The TextAssembler of this family. U+FFFD counts to the token that shows that no character will come of it."""

    def __init__(self, pieces: ByteLevelPieces, tokens: int) -> None:
        self._pieces = pieces
        self._tokens = tokens
        self._open = b""  # the beginning of a character: at most three bytes

    @property
    def settled_tokens(self) -> int:
        """All of them: the bytes still open will count to a later token."""
        return self._tokens

    def push(self, ids: Iterable[int]) -> list[Span]:
        """Append tokens and return the text that no later token can change."""
        spans: list[Span] = []
        for token_id in ids:
            self._tokens += 1
            piece = self._pieces[token_id]
            if piece is None:
                continue
            if isinstance(piece, str) and not self._open:
                spans.append(Span(piece, self._tokens))
            elif text := self._decode(piece):
                spans.append(Span(text, self._tokens))
        return spans

    def rest(self) -> list[Span]:
        """U+FFFD where the text ends inside a character."""
        return [Span(self._open.decode(errors="replace"), self._tokens)] if self._open else []

    def _decode(self, piece: str | bytes) -> str:
        data = self._open + (piece.encode() if isinstance(piece, str) else piece)
        text, used = utf_8_decode(data, "replace", False)
        self._open = data[used:]
        return text
