from __future__ import annotations

import pytest

from gateway.text.token_logprob import TokenLogprob, parts_of
from tests.gateway.artefacts_for_tests import family
from tests.tokenizers_for_tests import ADDED_TOKEN, FAMILIES, SPECIAL_TOKENS, TEXT
from tokenmill.v1 import generation_pb2


def message(one: TokenLogprob) -> generation_pb2.TokenLogprob:
    alternatives = [message(other) for other in one.alternatives]
    return generation_pb2.TokenLogprob(
        token_id=one.token_id, text=one.text, logprob=one.logprob, rank=one.rank, alternatives=alternatives
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_of_a_token_is_what_it_adds_to_a_text(name: str) -> None:
    artefact = family(name)
    tokenizer = artefact.tokenizer
    anchor = tokenizer.encode("fox", add_special_tokens=False).ids
    before = tokenizer.decode(anchor)
    pieces = artefact.pieces(keep_special_tokens=True)
    for token_id in range(artefact.vocabulary_size):
        text = artefact.token_text(token_id)
        if tokenizer.id_to_token(token_id) in SPECIAL_TOKENS or isinstance(pieces[token_id], bytes):
            continue
        assert text.decode() == tokenizer.decode([*anchor, token_id], skip_special_tokens=False)[len(before) :]
    assert artefact.token_text(artefact.vocabulary_size + 5) == b"", "a model may have more ids than its tokenizer"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_special_token_has_its_literal(name: str) -> None:
    artefact = family(name)
    texts = [artefact.token_text(artefact.special_ids[literal]) for literal in SPECIAL_TOKENS]
    assert texts == [literal.encode() for literal in SPECIAL_TOKENS]
    added = artefact.tokenizer.token_to_id(ADDED_TOKEN)
    assert artefact.token_text(added).strip() == ADDED_TOKEN.encode()


@pytest.mark.parametrize("name", ["byte-level", "byte-fallback", "unigram"])
@pytest.mark.parametrize("text", TEXT)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(name: str, text: str) -> None:
    artefact = family(name)
    ids = artefact.tokenizer.encode(" " + text, add_special_tokens=False).ids
    told = b"".join(map(artefact.token_text, ids)).decode()
    assert told.lstrip() == artefact.tokenizer.decode(ids).lstrip()


def test_alternatives_are_spelled_too() -> None:
    artefact = family("byte-fallback")
    newline, word = (artefact.tokenizer.token_to_id(token) for token in ("<0x0A>", "▁a"))
    one = TokenLogprob(newline, -1.0, 2, (TokenLogprob(word, -0.5, 1), TokenLogprob(newline, -1.0, 2)))
    spelled = one.spelled(artefact.token_text)
    assert (spelled.text, [other.text for other in spelled.alternatives]) == (b"\n", [b" a", b"\n"])
    assert (spelled.token_id, spelled.logprob, spelled.rank) == (newline, -1.0, 2)


def test_parts_hold_all_in_order_and_are_no_larger_as_messages() -> None:
    def one(size: int) -> TokenLogprob:
        other = TokenLogprob(2**32 - 1, -1e30, 2**31 - 1, text=b"x" * size)
        return TokenLogprob(2**32 - 1, -1e30, 2**31 - 1, (other,) * (size % 4), b"y" * size)

    logprobs = [one(size * 7 % 50) for size in range(200)]
    parts = list(parts_of(logprobs, 1000))
    assert [logprob for part in parts for logprob in part] == logprobs
    sizes = [generation_pb2.TokenLogprob(alternatives=map(message, part)).ByteSize() for part in parts]
    assert max(sizes) <= 1000
    assert min(sizes[:-1]) > 500, "as few as that allows"
    assert list(parts_of([one(2000)], 1000)) == [[one(2000)]]
    assert list(parts_of([], 1000)) == []
