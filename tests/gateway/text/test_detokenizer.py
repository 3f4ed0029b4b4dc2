"""The law of text: whatever the ids and however they are cut, the parts sum to `decode_output`."""

from __future__ import annotations

import time
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from gateway.text.detokenizer import Detokenizer, decode_output
from tests.gateway.artefacts_for_tests import (
    artefact_from,
    byte_ids,
    chunk_sizes,
    chunks_of,
    family,
    ids_of,
    random_ids,
)
from tests.tokenizers_for_tests import ADDED_TOKEN, BOS, EOS, FAMILIES, TEXT, TURN_END, TURN_START

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.text.artefact import TokenizerArtefact
    from gateway.text.text_assembler import Span

each_family = pytest.mark.parametrize("name", FAMILIES)


def spans_of(
    artefact: TokenizerArtefact,
    tail: Sequence[int],
    chunks: Sequence[Sequence[int]],
    *,
    keep_special_tokens: bool = False,
) -> list[Span]:
    detokenizer = Detokenizer(artefact, tail, keep_special_tokens=keep_special_tokens)
    spans = [span for chunk in chunks for span in detokenizer.push(chunk)]
    return [*spans, *detokenizer.flush()]


def text_of(spans: list[Span]) -> str:
    return "".join(span.text for span in spans)


def check_law(artefact: TokenizerArtefact, data: st.DataObject) -> None:
    tail = data.draw(random_ids(artefact, 8), "prompt tail")
    ids = data.draw(random_ids(artefact, 24), "ids")
    keep = data.draw(st.booleans(), "keep special tokens")
    spans = spans_of(artefact, tail, chunks_of(ids, data.draw(chunk_sizes, "chunks")), keep_special_tokens=keep)
    assert text_of(spans) == decode_output(artefact.tokenizer, tail, ids, keep_special_tokens=keep)
    # What completes a text does not depend on the chunks either, and is a token of the output.
    assert text_of(spans) == text_of(
        one_by_one := spans_of(artefact, tail, [[i] for i in ids], keep_special_tokens=keep)
    )
    assert spans == one_by_one
    numbers = [span.tokens for span in spans]
    assert numbers == sorted(numbers)
    assert all(1 <= number <= len(ids) for number in numbers)


@each_family
@settings(deadline=None, max_examples=75)
@given(data=st.data())
def test_for_any_ids_and_any_chunking_the_deltas_sum_to_the_decode(name: str, data: st.DataObject) -> None:
    check_law(family(name), data)


@pytest.mark.model
@settings(deadline=None, max_examples=75)
@given(data=st.data())
def test_the_law_holds_for_the_real_tokenizer(demo_artefact: TokenizerArtefact, data: st.DataObject) -> None:
    check_law(demo_artefact, data)


@pytest.fixture(scope="module")
def demo_artefact(demo_model: Path) -> TokenizerArtefact:
    return artefact_from((demo_model / "tokenizer.json").read_bytes())


@each_family
@pytest.mark.parametrize("text", TEXT)
def test_real_text_after_a_prompt_streams_to_itself_at_every_split(name: str, text: str) -> None:
    artefact = family(name)
    ids = artefact.tokenizer.encode(text, add_special_tokens=False).ids
    for split in range(len(ids) + 1):
        spans = spans_of(artefact, ids[:split][-32:], [ids[split:]])
        assert text_of(spans) == decode_output(artefact.tokenizer, ids[:split][-32:], ids[split:])


def test_broken_utf8_is_read_as_python_and_the_library_read_it() -> None:
    artefact = family("byte-level")
    # The stand-ins of GPT-2's alphabet for one ASCII byte and for bytes that begin, continue or break characters.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ids = ids_of(artefact, "A", *(token for token in "¿ÃàíðôÿĢ" if token in alphabet))
    assert len(ids) == 9
    for sequence in product(ids, repeat=4):
        spans = spans_of(artefact, [], [[token_id] for token_id in sequence])
        assert text_of(spans) == artefact.tokenizer.decode(sequence)


def test_an_incomplete_character_is_held_back_and_flushed_as_one_replacement_character() -> None:
    artefact = family("byte-level")
    ids = artefact.tokenizer.encode("a😀", add_special_tokens=False).ids
    detokenizer = Detokenizer(artefact, [])
    assert text_of(detokenizer.push(ids[:-1])) == "a"
    assert text_of(detokenizer.flush()) == "\ufffd"


def test_a_run_of_byte_tokens_is_held_until_it_ends() -> None:
    artefact = family("byte-fallback")
    detokenizer = Detokenizer(artefact, ids_of(artefact, "▁The"))
    assert detokenizer.push(byte_ids(artefact, "你好".encode())) == []
    assert detokenizer.settled_tokens == 0
    assert detokenizer.push(ids_of(artefact, BOS)) == []  # skipped, so it does not end the run
    assert detokenizer.push(ids_of(artefact, "x")) == [("你", 3), ("好", 6), ("x", 8)]
    assert detokenizer.settled_tokens == 8


def test_a_run_that_cannot_be_utf8_any_more_is_released_and_held_no_longer() -> None:
    artefact = family("byte-fallback")
    detokenizer = Detokenizer(artefact, ids_of(artefact, "▁The"))
    assert detokenizer.push(byte_ids(artefact, "你".encode())) == []
    assert detokenizer.push(byte_ids(artefact, b"\xff")) == [("\ufffd" * 4, 4)]
    assert detokenizer.push(byte_ids(artefact, b"a")) == [("\ufffd", 5)]
    assert detokenizer.push(byte_ids(artefact, b"b") + ids_of(artefact, "x")) == [("\ufffd", 6), ("x", 7)]
    assert detokenizer.settled_tokens == 7


def test_a_word_after_the_prompt_keeps_its_space() -> None:
    for name in ("byte-fallback", "unigram"):
        artefact = family(name)
        word, other = ids_of(artefact, "▁The", "▁a")
        assert text_of(spans_of(artefact, [word], [[other]])) == " a"
        assert text_of(spans_of(artefact, ids_of(artefact, BOS), [[other]])) == "a"
        assert text_of(spans_of(artefact, [], [[other, other]])) == "a a"


def test_a_continuation_joins_the_prompt_and_punctuation_is_cleaned_up() -> None:
    artefact = family("word-piece")
    dog, ing, dot = ids_of(artefact, "dog", "##ing", ".")
    assert text_of(spans_of(artefact, [dog], [[ing], [dog], [dot]])) == "ing dog."
    assert text_of(spans_of(artefact, [], [[ing]])) == "##ing"


@each_family
def test_special_tokens_are_skipped_unless_kept_and_added_ones_are_text(name: str) -> None:
    artefact = family(name)
    ids = ids_of(artefact, TURN_START, ADDED_TOKEN, TURN_END, EOS)
    assert text_of(spans_of(artefact, [], [ids])) == ADDED_TOKEN
    kept = text_of(spans_of(artefact, [], [ids], keep_special_tokens=True))
    assert kept.replace(" ", "") == TURN_START + ADDED_TOKEN + TURN_END + EOS


def test_a_prompt_that_ends_inside_a_character_gives_the_character_to_the_output() -> None:
    artefact = family("byte-level")
    ids = artefact.tokenizer.encode("a😀", add_special_tokens=False).ids
    spans = spans_of(artefact, ids[:-1], [ids[-1:]])
    assert spans == [("😀", 1)]


def test_a_prompt_that_ends_inside_a_run_gives_the_whole_run_to_the_first_tokens_of_the_output() -> None:
    # Half a character made all of the prompt's run U+FFFD; with the other half all of it is text that was not there.
    artefact = family("byte-fallback")
    run = byte_ids(artefact, "你们好".encode())
    spans = spans_of(artefact, ids_of(artefact, "▁The") + run[:7], [run[7:]])
    assert spans == [("你", 1), ("们", 1), ("好", 2)]


def test_without_ids_there_is_no_text_even_after_half_a_character() -> None:
    artefact = family("byte-fallback")
    tail = ids_of(artefact, "▁The") + byte_ids(artefact, b"\xe4\xbd")
    assert spans_of(artefact, tail, []) == []
    assert text_of(spans_of(artefact, tail, [ids_of(artefact, "x")])) == "x"
    assert text_of(spans_of(artefact, tail, [byte_ids(artefact, b"\xa0")])) == "你"


@each_family
def test_the_cost_of_a_token_does_not_depend_on_what_came_before(name: str) -> None:
    artefact = family(name)
    ids = artefact.tokenizer.encode("".join(TEXT), add_special_tokens=False).ids
    ids = (ids * (40_000 // len(ids) + 1))[:40_000]
    detokenizer = Detokenizer(artefact, [])
    seconds = []
    for start in range(0, len(ids), 10_000):
        before = time.process_time()
        for token_id in ids[start : start + 10_000]:
            detokenizer.push([token_id])
        seconds.append(time.process_time() - before)
    # Quadratic work would make the last quarter seven times as long as the first.
    assert seconds[-1] < 4 * seconds[1] + 0.05
