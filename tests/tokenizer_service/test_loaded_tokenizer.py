from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from tests.tokenizer_service.chat_formats import CHATML, LLAMA_2
from tests.tokenizer_service.model_folders import build_tokenizer, write_model_folder
from tests.tokenizers_for_tests import FAMILIES
from tokenizer_service.errors import TokenizerFolderError
from tokenizer_service.loaded_tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path):
    return write_model_folder(tmp_path / "model", build_tokenizer("byte-level", CHATML), CHATML)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_artefact_decodes_and_encodes_as_the_model_folder_does(tmp_path, family):
    tokenizer = build_tokenizer(family, LLAMA_2)
    tokenizer.enable_padding(length=64, pad_token="</s>", pad_id=tokenizer.token_to_id("</s>"))
    tokenizer.enable_truncation(max_length=3)
    loaded = load_tokenizer(write_model_folder(tmp_path, tokenizer, LLAMA_2))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    copy = Tokenizer.from_str(loaded.artefact.decode())
    ids = tokenizer.encode("The quick brown fox <s> naïve 中文").ids
    assert len(ids) > 3
    assert copy.encode("The quick brown fox <s> naïve 中文").ids == ids
    assert copy.decode(ids) == tokenizer.decode(ids)
    assert loaded.vocabulary_size == max(tokenizer.get_vocab().values()) + 1
    assert loaded.artefact == load_tokenizer(tmp_path).artefact


def test_special_ids_and_template_come_from_the_folder(folder):
    loaded = load_tokenizer(folder)
    end = loaded.backend.token_to_id("<|im_end|>")
    assert (loaded.eos_token_ids, loaded.bos_token_id, loaded.adds_bos) == ((end,), None, False)
    assert loaded.special_tokens["eos_token"] == "<|im_end|>"
    assert loaded.templates.choose(with_tools=False).source == CHATML.source


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pad_token": "<|endoftext|>"}, "<|endoftext|>"),
        ({}, "<|im_end|>"),  # eos
        ({"eos_token": None, "unk_token": "<|turn_end|>"}, "<|turn_end|>"),
        ({"eos_token": None}, "<s>"),  # the first special token
    ],
)
def test_there_is_always_a_pad_token(tmp_path, config, expected):
    loaded = load_tokenizer(write_model_folder(tmp_path, build_tokenizer("byte-level", CHATML), CHATML, **config))
    assert loaded.backend.id_to_token(loaded.pad_token_id) == expected


@pytest.mark.parametrize("named_by", ["tokenizer.json", "tokenizer_config.json"])
def test_a_pad_token_that_the_vocabulary_does_not_have_is_not_taken(tmp_path, named_by):
    tokenizer = build_tokenizer("byte-level", CHATML)
    if named_by == "tokenizer.json":
        tokenizer.enable_padding(length=8, pad_token="[NOWHERE]", pad_id=7)
    config = {"pad_token": "[NOWHERE]"} if named_by == "tokenizer_config.json" else {}
    loaded = load_tokenizer(write_model_folder(tmp_path, tokenizer, CHATML, **config))
    assert loaded.pad_token_id == tokenizer.token_to_id("<|im_end|>")


def test_a_vocabulary_without_any_special_token_pads_with_id_0(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert load_tokenizer(write_model_folder(tmp_path, tokenizer, CHATML, eos_token=None)).pad_token_id == 0


def test_named_templates_are_loaded(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T")
    assert load_tokenizer(folder).templates.choose(with_tools=True).source == "T"
    assert load_tokenizer(folder).templates.choose(with_tools=False).source == CHATML.source


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {}}')


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            r"model/tokenizer.json: missing.*PreTrainedTokenizerFast",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), r"model/tokenizer.json: not readable"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("no"), r"model/tokenizer_config.json: not read"),
        (broken_tokenizer, r"model: the tokenizer cannot be loaded"),
    ],
)
def test_a_damaged_folder_is_refused_naming_the_file(folder, damage, named):
    damage(folder)
    with pytest.raises(TokenizerFolderError, match=named):
        load_tokenizer(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(TokenizerFolderError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_slow_tokenizer_is_refused_by_name(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "ByT5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerFolderError, match="ByT5Tokenizer"):
        load_tokenizer(folder)


def test_code_in_a_folder_is_not_run(folder):
    config = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    with pytest.raises(TokenizerFolderError, match="custom code"):
        load_tokenizer(folder)
    assert not (folder / "ran").exists()


def test_tokenizers_load_where_torch_is_not_installed(folder):
    program = f"""
import sys
from pathlib import Path
sys.modules["torch"] = None  # as if it were not there
from tokenizer_service.loaded_tokenizer import load_tokenizer
print(load_tokenizer(Path({str(folder)!r})).backend.encode("fox").ids)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[")
