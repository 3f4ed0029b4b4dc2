"""Which decoders of the `tokenizers` library can be followed token by token, and how.

A tokenizer.json describes its decoder as steps over a list of tokens. Understood are those where the text of a token
depends on nothing after it (runs of byte tokens apart); any other is refused by name when the artefact is loaded.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from gateway.text.byte_level import ByteLevelPieces
from gateway.text.text_assembler import PieceTable
from gateway.text.text_pieces import TextPieces

# Steps that treat every token by itself, or (Metaspace, WordPiece) the first one differently.
_PER_TOKEN = {"Replace", "Strip", "Metaspace", "WordPiece"}
_FALLBACK = "ByteFallback"
_FUSE = "Fuse"


class UnsupportedDecoderError(Exception):
    """The text of this tokenizer cannot be streamed; the message names the step that prevents it."""


def piece_table(tokenizer: Tokenizer, skipped: frozenset[str]) -> PieceTable:
    """The pieces of `tokenizer`'s vocabulary; tokens whose text is in `skipped` add nothing.

    Errors: UnsupportedDecoderError, UndecodableVocabularyError.
    """
    steps = _steps(tokenizer)
    kinds = [str(step["type"]) for step in steps]
    if kinds[:1] == ["ByteLevel"] and set(kinds[1:]) <= {_FUSE}:
        return ByteLevelPieces(tokenizer, skipped)
    _check(steps)
    return TextPieces(tokenizer, skipped, byte_fallback=_FALLBACK in kinds)


def _steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    if tokenizer.decoder is None:
        return []  # tokens are joined by spaces
    decoder = json.loads(tokenizer.decoder.__getstate__())  # the decoder's part of tokenizer.json
    return _flatten(decoder)


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _flatten(inner)]


def _check(steps: list[dict[str, Any]]) -> None:
    fused = False
    for step in steps:
        kind = str(step["type"])
        if not (_works_on_whole_text(step) if fused else kind in {*_PER_TOKEN, _FALLBACK, _FUSE}):
            raise UnsupportedDecoderError(f"the tokenizer's decoder step {kind} cannot be followed token by token")
        fused = fused or kind == _FUSE


def _works_on_whole_text(step: dict[str, Any]) -> bool:
    """After Fuse all tokens are one: only the beginning of a text, or single characters, may be changed."""
    match step:
        case {"type": "Fuse"} | {"type": "Strip", "stop": 0}:
            return True
        case {"type": "Replace", "pattern": {"String": str(pattern)}}:
            return len(pattern) == 1
        case _:
            return False
