"""The tokenizer of a model as the gateway has it: what its ids mean as text. Made from the bytes of a tokenizer.json.

Everything here is read-only after loading, but for caches that only the event loop touches.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from gateway.text.decoder_chain import piece_table
from gateway.text.text_assembler import PieceTable

# Long enough for the character, or the run of byte tokens of one emoji sequence, in which a prompt may end.
PROMPT_TAIL_TOKENS = 32


class CorruptArtefactError(Exception):
    """The bytes received are not the tokenizer that was announced."""


class TokenizerArtefact:
    """A loaded tokenizer.json. Building one takes about 50 ms per megabyte: call it through `asyncio.to_thread`.

    `tokenizers` holds the interpreter lock while it parses, so even then the loop pauses for part of that time.
    """

    def __init__(self, data: bytes, sha256: bytes, vocabulary_fingerprint: str) -> None:
        """Check `data`, the bytes of a tokenizer.json, against its SHA-256 (32 bytes) and load it.

        Errors: CorruptArtefactError, UnsupportedDecoderError, UndecodableVocabularyError.
        """
        if hashlib.sha256(data).digest() != sha256:
            raise CorruptArtefactError("the tokenizer artefact does not match its SHA-256")
        try:
            self.tokenizer = Tokenizer.from_buffer(data)
        except ValueError as error:
            raise CorruptArtefactError("the tokenizer artefact is not a tokenizer.json") from error
        self.vocabulary_fingerprint = vocabulary_fingerprint
        self.vocabulary_size = max(self.tokenizer.get_vocab().values(), default=-1) + 1
        added = self.tokenizer.get_added_tokens_decoder()
        self.special_ids = {token.content: token_id for token_id, token in added.items() if token.special}
        self._special_texts = {token_id: text.encode() for text, token_id in self.special_ids.items()}
        self._pieces = piece_table(self.tokenizer, frozenset(self.special_ids))
        self._pieces_with_special = piece_table(self.tokenizer, frozenset())

    def pieces(self, *, keep_special_tokens: bool) -> PieceTable:
        """What each token adds to a text, special tokens skipped unless kept."""
        return self._pieces_with_special if keep_special_tokens else self._pieces

    def token_text(self, token_id: int) -> bytes:
        """What one token adds to a text that has begun; a special token's literal; nothing for an id without a token.

        For byte-level tokenizers, and for byte tokens, the bytes need not be UTF-8 alone.
        """
        if token_id in self._special_texts:
            return self._special_texts[token_id]
        piece = self._pieces_with_special[token_id]
        return piece.encode() if isinstance(piece, str) else piece or b""

    def prompt_tail(self, prompt_ids: Sequence[int]) -> list[int]:
        """The end of a prompt that its output is decoded with: the last PROMPT_TAIL_TOKENS tokens.

        Where that cuts a character, the up to three tokens left of it are dropped: with byte fallback they would turn
        the whole run, and an output that goes on with it, into U+FFFD.
        """
        tail = list(prompt_ids[-PROMPT_TAIL_TOKENS:])
        if len(tail) == len(prompt_ids):
            return tail
        cut = 0
        while cut < 3 and _is_continuation(self._pieces[tail[cut]]):
            cut += 1
        return tail[cut:]

    def special_stops(self, stop_strings: Iterable[str]) -> dict[str, int]:
        """Those stop strings that are exactly a special token, with its id: the worker can stop at them by itself."""
        return {text: self.special_ids[text] for text in stop_strings if text in self.special_ids}


def _is_continuation(piece: object) -> bool:
    return isinstance(piece, bytes) and piece[:1] >= b"\x80" and piece[:1] < b"\xc0"


class ArtefactCache:
    """The last few artefacts by vocabulary fingerprint: a roll-out needs two, each costs tens of megabytes."""

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._artefacts: OrderedDict[str, TokenizerArtefact] = OrderedDict()

    def get(self, vocabulary_fingerprint: str) -> TokenizerArtefact | None:
        """The artefact of this fingerprint, now the most recently used."""
        if vocabulary_fingerprint in self._artefacts:
            self._artefacts.move_to_end(vocabulary_fingerprint)
        return self._artefacts.get(vocabulary_fingerprint)

    def put(self, artefact: TokenizerArtefact) -> None:
        """Keep `artefact` and forget the least recently used beyond the capacity."""
        self._artefacts[artefact.vocabulary_fingerprint] = artefact
        self._artefacts.move_to_end(artefact.vocabulary_fingerprint)
        while len(self._artefacts) > self._capacity:
            self._artefacts.popitem(last=False)
