"""What is said on the command line reaches the loader."""

import json
from pathlib import Path

import pytest

from model_worker.engines.choice import load_engine
from model_worker.loading.load_errors import LoadError
from model_worker.loading.schemes import QuantizationOptions
from model_worker.settings import WorkerSettings
from model_worker.torch_engine import loader
from rpc.settings import load_settings


def test_every_option_of_quantization_reaches_the_loader(monkeypatch):
    heard = []
    monkeypatch.setattr(loader, "load_engine", lambda settings, _progress: heard.append(settings))
    flags = [
        *("--model", "/models/mill", "--device-map", "auto", "--quantization", "bnb-fp4", "--bnb-double-quantization"),
        *("--bnb-compute-dtype", "float16", "--bnb-int8-threshold", "6.5"),
        *("--quantization-skip-modules", "lm_head", "--quantization-skip-modules", "layers.0"),
    ]
    load_engine(load_settings(WorkerSettings, "worker", flags, {}), lambda _: None)
    [settings] = heard
    assert (settings.model, settings.device_map, settings.quantization) == (Path("/models/mill"), "auto", "bnb-fp4")
    assert settings.quantization_options == QuantizationOptions(
        double_quantization=True, compute_dtype="float16", int8_threshold=6.5, skip_modules=("lm_head", "layers.0")
    )


def folder_of(tmp_path, **script):
    tokenizer = {"model": {"vocab": {"a": 0, "b": 9}}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "script.json").write_text(json.dumps(script))
    return ["--model", str(tmp_path), "--script", str(tmp_path / "script.json")]


def test_a_script_is_read_for_the_scripted_engine_only(tmp_path):
    flags = folder_of(tmp_path, context_length=100)

    def spec(*more):
        return load_engine(load_settings(WorkerSettings, "worker", [*flags, *more], {}), lambda _: None).spec

    assert spec("--engine", "scripted").context_length == 100
    assert spec("--engine", "scripted", "--max-model-len", "50").context_length == 50
    for engine in ("fake", "transformers"):
        with pytest.raises(LoadError, match="--script is for --engine scripted"):
            spec("--engine", engine)


def test_what_a_script_says_is_checked_against_the_vocabulary(tmp_path):
    flags = [*folder_of(tmp_path, ids=[10]), "--engine", "scripted"]
    with pytest.raises(LoadError, match=r"script.json: ids\[0\] must be a token id below 10"):
        load_engine(load_settings(WorkerSettings, "worker", flags, {}), lambda _: None)
