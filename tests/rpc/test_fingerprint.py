"""The vocabulary's fingerprint: the same for the same tokens, however the files are written."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from rpc.fingerprint import FingerprintError, template_fingerprint, vocabulary_fingerprint

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 3, "content": "<|end|>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
}


def folder(path: Path, tokenizer: object = TOKENIZER, **files: object) -> Path:
    for name, content in {"tokenizer": tokenizer, **files}.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_it_is_64_hexadecimal_digits(tmp_path):
    assert len(bytes.fromhex(vocabulary_fingerprint(folder(tmp_path)))) == 32


def test_it_does_not_depend_on_key_order_white_space_or_escapes(tmp_path):
    plain = vocabulary_fingerprint(folder(tmp_path))
    backwards = dict(reversed(TOKENIZER.items()))
    assert vocabulary_fingerprint(folder(tmp_path, json.dumps(backwards, indent=2, ensure_ascii=False))) == plain


def test_it_does_not_depend_on_truncation_and_padding_that_use_has_left_behind(tmp_path):
    plain = vocabulary_fingerprint(folder(tmp_path))
    used = TOKENIZER | {"truncation": {"max_length": 5}, "padding": {"pad_id": 3}}
    assert vocabulary_fingerprint(folder(tmp_path, used)) == plain
    without = {key: value for key, value in TOKENIZER.items() if key not in {"truncation", "padding"}}
    assert vocabulary_fingerprint(folder(tmp_path, without)) == plain


@pytest.mark.parametrize("change", ["token", "id", "merge", "added token"])
def test_it_changes_with_a_token(tmp_path, change):
    changed = copy.deepcopy(TOKENIZER)
    model = changed["model"]
    match change:
        case "token":
            model["vocab"] = {"a": 0, "c": 1, "ab": 2}
        case "id":
            model["vocab"] = {"a": 1, "b": 0, "ab": 2}
        case "merge":
            model["merges"] = []
        case "added token":
            changed["added_tokens"][0]["content"] = "<|stop|>"
    plain = vocabulary_fingerprint(folder(tmp_path))
    assert vocabulary_fingerprint(folder(tmp_path, changed)) != plain


def test_tokens_that_other_files_add_count_however_they_are_written(tmp_path):
    plain = vocabulary_fingerprint(folder(tmp_path))
    listed = vocabulary_fingerprint(folder(tmp_path, added_tokens={"<pad>": 4}))
    assert listed != plain
    (tmp_path / "added_tokens.json").unlink()
    decoder = {"4": {"content": "<pad>", "special": True}}
    assert vocabulary_fingerprint(folder(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})) == listed


def test_a_file_that_repeats_the_added_tokens_changes_nothing(tmp_path):
    plain = vocabulary_fingerprint(folder(tmp_path))
    repeated = {"added_tokens_decoder": {"3": {"content": "<|end|>"}}, "chat_template": "…", "padding_side": "left"}
    assert vocabulary_fingerprint(folder(tmp_path, added_tokens={"<|end|>": 3}, tokenizer_config=repeated)) == plain


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer": "{"}, r"tokenizer\.json: not JSON"),
        ({"tokenizer": []}, r"tokenizer\.json: not a JSON object"),
        ({"tokenizer": {"added_tokens": ["<pad>"]}}, "added tokens in a form we do not know"),
        ({"added_tokens": {"<pad>": "four"}}, "added tokens in a form we do not know"),
        ({"tokenizer_config": {"added_tokens_decoder": {"4": "<pad>"}}}, "added tokens in a form we do not know"),
        ({"tokenizer_config": {"added_tokens_decoder": {"4": {}}}}, "added tokens in a form we do not know"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, files, message):
    with pytest.raises(FingerprintError, match=message):
        vocabulary_fingerprint(folder(tmp_path, **files))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FingerprintError, match=r"tokenizer\.json: No such file"):
        vocabulary_fingerprint(tmp_path)


def test_a_template_has_a_fingerprint_and_none_has_none():
    assert len(template_fingerprint("{{ messages }}")) == 64
    assert template_fingerprint("{{ messages }}") != template_fingerprint("{{ messages }} ")
    assert template_fingerprint(None) == template_fingerprint("") == ""


@pytest.mark.model
def test_the_demo_model_has_one(demo_model):
    assert len(vocabulary_fingerprint(demo_model)) == 64
