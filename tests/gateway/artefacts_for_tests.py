"""The tokenizer families as the gateway has them, and random ids that are unkind to them."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from gateway.text.artefact import TokenizerArtefact
from tests.tokenizers_for_tests import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer


def artefact_of(tokenizer: Tokenizer) -> TokenizerArtefact:
    return artefact_from(tokenizer.to_str().encode())


def artefact_from(data: bytes) -> TokenizerArtefact:
    return TokenizerArtefact(data, hashlib.sha256(data).digest(), hashlib.sha256(data).hexdigest())


@cache
def family(name: str) -> TokenizerArtefact:
    return artefact_of(FAMILIES[name]())


def ids_of(artefact: TokenizerArtefact, *tokens: str) -> list[int]:
    found = [artefact.tokenizer.token_to_id(token) for token in tokens]
    assert None not in found, tokens
    return [token_id for token_id in found if token_id is not None]


def byte_ids(artefact: TokenizerArtefact, data: bytes) -> list[int]:
    """The byte-fallback tokens of `data`."""
    return ids_of(artefact, *(f"<0x{byte:02X}>" for byte in data))


def random_ids(artefact: TokenizerArtefact, max_size: int) -> st.SearchStrategy[list[int]]:
    """Any ids: special ones, ones outside the vocabulary, broken and whole characters, real text."""
    pieces = artefact.pieces(keep_special_tokens=False)
    # The tokens with bytes are where all the difficulties are: half of what is drawn.
    with_bytes = [i for i in range(artefact.vocabulary_size) if isinstance(pieces[i], bytes)]
    anything = st.integers(0, artefact.vocabulary_size + 3)
    one = st.one_of(anything, st.sampled_from(list(artefact.special_ids.values())))
    if with_bytes:
        one = st.one_of(st.sampled_from(with_bytes), one)
    text = st.sampled_from(["😀", "é", "你好", "\n", "the end", " fox"]).map(
        lambda string: artefact.tokenizer.encode(string, add_special_tokens=False).ids
    )
    parts = st.lists(st.one_of(st.lists(one, max_size=6), text), max_size=4)
    return parts.map(lambda lists: [token_id for part in lists for token_id in part][:max_size])


def chunks_of(ids: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """`ids` cut into chunks of these sizes (0: an empty chunk), what is left in one more."""
    chunks, start = [], 0
    for size in sizes:
        chunks.append(list(ids[start : start + size]))
        start += size
    return [*chunks, list(ids[start:])]


chunk_sizes = st.lists(st.integers(0, 4), max_size=12)
