"""What the settings say about adapters reaches whatever engine they choose."""

import json

import pytest

from model_worker.engines.choice import load_engine
from model_worker.loading.load_errors import LoadError
from model_worker.settings import WorkerSettings


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}))
    return tmp_path


def fake(folder, *adapters):
    return WorkerSettings(model=folder, served_model_name="base", engine="fake", lora_modules=adapters)


def test_the_fake_engine_has_adapters_by_name(folder):
    assert load_engine(fake(folder, "sql=/a", "/adapters/legal"), lambda _: None).spec.adapters == ("sql", "legal")


def test_an_adapter_with_the_models_name_is_refused(folder):
    with pytest.raises(LoadError, match="--lora-modules base: the served model has this name"):
        load_engine(fake(folder, "base=/a"), lambda _: None)
