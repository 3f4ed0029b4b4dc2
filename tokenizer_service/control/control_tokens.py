"""User text never becomes a control token: only what the chat template itself writes does.

A control token is any added token that is not white space. Texts are encoded by a renamed tokenizer, to which every
literal is plain text; the template's own literals get their secret names before. So splitting, white space and
normalization around control tokens remain the library's own.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer

from tokenizer_service.control.control_text import ControlText, Piece
from tokenizer_service.control.literal_pattern import LiteralParts, literal_pattern
from tokenizer_service.control.marks import Marks
from tokenizer_service.control.renamed_tokenizer import control_literals, rename_tokens, secret_names
from tokenizer_service.errors import TokenizerFolderError


class ControlTokens:
    """The control tokens of one tokenizer. Immutable, so safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = control_literals(tokenizer)
        self._names = secret_names(self._ids)
        self.plain = rename_tokens(tokenizer, self._names)  # encodes any text as plain text
        if any(self.plain.token_to_id(self._names[text]) != token_id for text, token_id in self._ids.items()):
            raise TokenizerFolderError("the added tokens of tokenizer.json do not have the ids that it gives them")
        added = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
        normalized = {text for text in self._ids if added[text].normalized}
        # The library looks for these first, then for those that match normalized text.
        kinds = (self._ids.keys() - normalized, normalized)
        self._patterns = [literal_pattern(literals) for literals in kinds if literals]
        # Tokens of these kinds are not always taken as tokens where their text stands.
        self._conditional = bool(normalized) or any(added[text].single_word for text in self._ids)
        self._literals = literal_pattern(self._ids)
        self._parts = LiteralParts(self._ids)

    def marks(self, *, cautious: bool = False) -> Marks:
        """Return fresh marks for one rendering."""
        return Marks(self._literals, self._parts, cautious=cautious)

    def text_of(self, marks: Marks, rendered: str) -> ControlText:
        """Return what the template rendered: its own literals act as control tokens, marked ones are text."""
        pieces: list[Piece] = []
        for text, was_marked in marks.split(rendered):
            pieces.extend([Piece(text)] if was_marked else _cut(text, self._patterns))
        return ControlText(pieces, self._names)

    def encode(self, text: ControlText, *, with_offsets: bool) -> tuple[ControlText, Encoding]:
        """Encode without adding special tokens. The text comes back as it was encoded.

        A literal that the library would have left as text (a single-word token inside a word, one that normalization
        hides) is found by its missing token; it is given back to the text, which is encoded again.
        """
        # Offsets double the time. The batch form, because `encode` holds the GIL all along.
        fast = not (with_offsets or self._conditional)
        encode = self.plain.encode_batch_fast if fast else self.plain.encode_batch
        while True:
            (encoding,) = encode([text.renamed], add_special_tokens=False)
            untaken = self._untaken(text, encoding) if self._conditional else set()
            if not untaken:
                return text, encoding
            pieces = [Piece(piece.text) if at in untaken else piece for at, piece in enumerate(text.pieces)]
            text = ControlText(pieces, self._names)

    def _untaken(self, text: ControlText, encoding: Encoding) -> set[int]:
        """Return the indices of the control pieces that did not become their token."""
        ids, offsets = encoding.ids, encoding.offsets
        ends = [end for _, end in offsets]
        untaken = set()
        for at, (piece, (start, end)) in enumerate(zip(text.pieces, text.spans(), strict=True)):
            if not piece.is_control:
                continue
            token = bisect_right(ends, start)  # the first that reaches into the piece; it may start before, at a space
            if token == len(ids) or ids[token] != self._ids[piece.text] or offsets[token][0] >= end:
                untaken.add(at)
        return untaken


def _cut(text: str, patterns: Sequence[re.Pattern[str]]) -> Iterator[Piece]:
    """Cut `text` at the literals of the first pattern, and what is left at those of the others."""
    if not patterns:
        yield Piece(text)
        return
    for at, part in enumerate(patterns[0].split(text)):
        if at % 2:
            yield Piece(part, is_control=True)
        elif part:
            yield from _cut(part, patterns[1:])
