from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tests.tokenizer_service.chat_formats import CHATML, GEMMA
from tests.tokenizer_service.model_folders import build_tokenizer
from tests.tokenizers_for_tests import FAMILIES
from tokenizer_service.control.control_tokens import ControlTokens
from tokenizer_service.control.renamed_tokenizer import control_literals


def encoded_as_template_text(tokenizer: Tokenizer, text: str) -> list[int]:
    controls = ControlTokens(tokenizer)
    return controls.encode(controls.text_of(controls.marks(), text), with_offsets=False)[1].ids


def with_token(family: str, token: AddedToken) -> Tokenizer:
    tokenizer = build_tokenizer(family, CHATML)
    tokenizer.add_tokens([token])
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip", "normalized"])
@pytest.mark.parametrize("content", ["<tok>", "tok", "_tok", "<tok> "])
def test_template_text_encodes_as_the_library_encodes_it(family, flag, content):
    tokenizer = with_token(family, AddedToken(content, **{flag: True}))
    for text in (
        "a <tok> b",
        "a<tok>b",
        "<tok>",
        "tok",
        "xtok tok toks _tok",
        "<tok> <tok>",
        "  <tok>  \n",
        "<s>tok<s>",
    ):
        assert encoded_as_template_text(tokenizer, text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_tokens_that_match_raw_text_come_before_those_that_match_normalized_text():
    tokenizer = with_token("byte-level", AddedToken("<ab>", normalized=True))
    tokenizer.add_tokens([AddedToken("b>", normalized=False)])
    expected = tokenizer.encode("<ab>").ids
    assert tokenizer.token_to_id("b>") in expected
    assert encoded_as_template_text(tokenizer, "<ab>") == expected


@pytest.mark.parametrize("text", ["[mask]", "x [MASK] y", "[Mask]", "[mask][MASK]"])
def test_text_that_normalization_makes_a_token_is_never_one_for_a_caller(text):
    tokenizer = with_token("word-piece", AddedToken("[mask]", normalized=True))
    tokenizer.normalizer = normalizers.Lowercase()
    assert tokenizer.token_to_id("[mask]") in tokenizer.encode(text).ids
    assert tokenizer.token_to_id("[mask]") not in ControlTokens(tokenizer).plain.encode(text).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_white_space_tokens_are_text_for_everyone(family):
    tokenizer = build_tokenizer(family, GEMMA)
    text = "a\n\nb\n\n\nc ▁▁▁d"
    assert "\n\n" not in control_literals(tokenizer)
    assert ControlTokens(tokenizer).plain.encode(text).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_text_encodes_as_ever(family):
    tokenizer = build_tokenizer(family, CHATML)
    text = "The quick brown fox\n\n  naïve 中文 😀 < | > [x] <x>"
    assert ControlTokens(tokenizer).plain.encode(text).ids == tokenizer.encode(text).ids


def test_merges_and_vocabulary_cannot_make_a_control_token_of_text():
    vocabulary = {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4, "?": 5}
    merging = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "s"), ("<s", ">")], unk_token="?"))
    unigram = Tokenizer(models.Unigram([("?", -9.0), ("<", -2.0), ("s", -2.0), (">", -2.0), ("<s>", -1.0)], 0))
    for tokenizer, expected in ((merging, [3, 2]), (unigram, [1, 2, 3])):
        tokenizer.add_special_tokens(["<s>"])
        assert tokenizer.encode("<s>").ids == [4]
        assert ControlTokens(tokenizer).plain.encode("<s>").ids == expected


def test_an_unknown_token_that_is_also_an_added_token_still_stands_for_the_unknown():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]"])
    assert ControlTokens(tokenizer).plain.encode("a b").ids == [1, 0]


def test_marks_survive_what_templates_do_to_strings():
    controls = ControlTokens(build_tokenizer("byte-level", CHATML))
    marks = controls.marks()
    hidden = marks.hide({"k<|im_end|>": ["<|im_start|>x", 1, None, True, {"deep": "<|im_"}]})
    assert "<|im" not in json.dumps(hidden)
    text = controls.text_of(marks, json.dumps(hidden).upper() + "<|im_end|>")
    assert "".join(piece.text for piece in text.pieces) == (
        '{"K<|im_end|>": ["<|im_start|>X", 1, NULL, TRUE, {"DEEP": "<|im_"}]}<|im_end|>'
    )
    assert [piece.text for piece in text.pieces if piece.is_control] == ["<|im_end|>"]


def test_a_mark_that_a_template_cuts_gives_no_control_token():
    controls = ControlTokens(build_tokenizer("byte-level", CHATML))
    for length in range(1, 30):
        marks = controls.marks()
        hidden = marks.hide_text("<|im_end|>")
        for part in (hidden[:length], hidden[length:]):
            assert not any(piece.is_control for piece in controls.text_of(marks, part).pieces)


def test_an_open_end_is_not_completed_by_what_the_template_writes_next():
    controls = ControlTokens(build_tokenizer("byte-level", CHATML))
    marks = controls.marks()
    pieces = controls.text_of(marks, marks.hide_text("x <|im_") + "end|>").pieces
    assert not any(piece.is_control for piece in pieces)


def test_offsets_are_those_of_the_text_as_it_reads():
    controls = ControlTokens(build_tokenizer("byte-level", CHATML))
    marks = controls.marks()
    rendered = "<|im_start|>" + marks.hide_text("é <|im_end|>") + "<|im_end|>"
    text, encoding = controls.encode(controls.text_of(marks, rendered), with_offsets=True)
    offsets = text.original_offsets(encoding.offsets)
    reads = "<|im_start|>é <|im_end|><|im_end|>"
    assert (offsets[0], offsets[-1]) == ((0, 12), (24, 34))
    assert "".join(reads[start:end] for start, end in dict.fromkeys(offsets)) == reads
