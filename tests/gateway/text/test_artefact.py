"""Loading, refusing and keeping tokenizer artefacts."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from tokenizers import Tokenizer, decoders, models

from gateway.text.artefact import PROMPT_TAIL_TOKENS, ArtefactCache, CorruptArtefactError, TokenizerArtefact
from gateway.text.decoder_chain import UnsupportedDecoderError
from gateway.text.detokenizer import Detokenizer, decode_output
from gateway.text.text_pieces import UndecodableVocabularyError
from tests.gateway.artefacts_for_tests import artefact_of, byte_ids, family, ids_of
from tests.tokenizers_for_tests import ADDED_TOKEN, BOS, FAMILIES, SPECIAL_TOKENS, unigram_tokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_an_artefact_knows_its_vocabulary_and_its_special_tokens(name: str) -> None:
    artefact = family(name)
    assert artefact.vocabulary_size == artefact.tokenizer.get_vocab_size()
    assert set(artefact.special_ids) == set(SPECIAL_TOKENS)


async def test_an_artefact_can_be_loaded_off_the_event_loop() -> None:
    data = unigram_tokenizer().to_str().encode()
    artefact = await asyncio.to_thread(TokenizerArtefact, data, hashlib.sha256(data).digest(), "fingerprint")
    assert artefact.vocabulary_fingerprint == "fingerprint"


def test_bytes_that_do_not_match_their_checksum_are_refused() -> None:
    data = unigram_tokenizer().to_str().encode()
    with pytest.raises(CorruptArtefactError, match="SHA-256"):
        TokenizerArtefact(data[:-1], hashlib.sha256(data).digest(), "")


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    data = b'{"model": "none"}'
    with pytest.raises(CorruptArtefactError, match=r"not a tokenizer\.json"):
        TokenizerArtefact(data, hashlib.sha256(data).digest(), "")


def test_a_stop_string_that_is_exactly_a_special_token_is_found_with_its_id() -> None:
    artefact = family("byte-level")
    stops = [BOS, BOS + " ", ADDED_TOKEN, "The"]
    assert artefact.special_stops(stops) == {BOS: artefact.tokenizer.token_to_id(BOS)}


@pytest.mark.parametrize(
    ("decoder", "step"),
    [
        (decoders.CTC(), "CTC"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), "Strip"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("▁▁", " ")]), "Replace"),
        (decoders.Sequence([decoders.Fuse(), decoders.ByteLevel()]), "ByteLevel"),
    ],
)
def test_a_decoder_that_cannot_be_followed_is_refused_by_name(decoder: decoders.Decoder, step: str) -> None:
    tokenizer = unigram_tokenizer()
    tokenizer.decoder = decoder
    with pytest.raises(UnsupportedDecoderError, match=step):
        artefact_of(tokenizer)


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.Metaspace(),
        decoders.Metaspace(prepend_scheme="never"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip("▁", 3, 0)]),
    ],
)
def test_other_chains_of_decoder_steps_stream_to_their_decode(decoder: decoders.Decoder | None) -> None:
    tokenizer = unigram_tokenizer()
    tokenizer.decoder = decoder
    artefact = artefact_of(tokenizer)
    bytes_of_space = byte_ids(artefact, "▁ ▁".encode())
    ids = [*bytes_of_space, *ids_of(artefact, "▁", "▁", "▁fox", "▁"), *bytes_of_space, *ids_of(artefact, "x")]
    for split in range(len(ids) + 1):
        detokenizer = Detokenizer(artefact, ids[:split])
        spans = [span for token_id in ids[split:] for span in detokenizer.push([token_id])] + detokenizer.flush()
        assert "".join(span.text for span in spans) == decode_output(tokenizer, ids[:split], ids[split:])


def test_a_vocabulary_without_text_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={f"<0x{byte:02X}>": byte for byte in range(256)}, merges=[]))
    tokenizer.decoder = decoders.ByteFallback()
    with pytest.raises(UndecodableVocabularyError):
        artefact_of(tokenizer)


def test_the_prompt_tail_is_short_and_begins_with_a_whole_character() -> None:
    artefact = family("byte-fallback")
    word, emoji = ids_of(artefact, "▁The"), byte_ids(artefact, "😀".encode())
    assert artefact.prompt_tail(word + emoji) == word + emoji
    for before in range(4):
        prompt = word + emoji * 20 + byte_ids(artefact, b"a" * before)
        tail = artefact.prompt_tail(prompt)
        assert PROMPT_TAIL_TOKENS - 3 <= len(tail) <= PROMPT_TAIL_TOKENS
        assert tail == prompt[len(prompt) - len(tail) :]
        assert "\ufffd" not in decode_output(artefact.tokenizer, tail, emoji)


def test_the_cache_forgets_the_least_recently_used_artefact() -> None:
    cache = ArtefactCache(capacity=2)
    first, second, third = (family(name) for name in list(FAMILIES)[:3])
    cache.put(first)
    cache.put(second)
    assert cache.get(first.vocabulary_fingerprint) is first
    cache.put(third)
    assert cache.get(second.vocabulary_fingerprint) is None
    assert cache.get(first.vocabulary_fingerprint) is first
    assert cache.get(third.vocabulary_fingerprint) is third
