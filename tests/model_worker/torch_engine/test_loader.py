"""Loading a folder from disk, end to end, on a tiny model saved in the test."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils.logging import set_tqdm_hook

from model_worker.engine import GenerationDefaults
from model_worker.loading.load_errors import LoadError, ModelFolderError, UnavailableOptionError, UnsupportedModelError
from model_worker.loading.load_progress import LoadProgress
from model_worker.sequence import Extent
from model_worker.torch_engine.loader import LoadSettings, load_engine
from model_worker.torch_engine.rope_check import check_rope
from tests.model_worker.tiny_models import FAMILIES, Row, drive, prompt_of, reference, sequence_of, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama", torch.float32).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5], "top_p": 0.9}))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def settings(folder, **options):
    return LoadSettings(model=folder, device="cpu", kv_cache_memory=2**20, threads=1, **options)


def load(folder, **options):
    return load_engine(settings(folder, **options), lambda _: None)


def test_a_loaded_engine_knows_what_it_is_and_generates_like_the_model(folder):
    engine = load(folder, quantization="none")
    spec = engine.spec
    assert (spec.vocabulary_size, spec.context_length, spec.dtype, spec.quantization) == (97, 128, "float32", "none")
    assert spec.kv_bytes_per_token == 2 * 2 * 2 * 8 * 4  # layers, K and V, heads, size, bytes
    assert spec.kv_capacity_tokens == 2**20 // spec.kv_bytes_per_token
    assert spec.eos_token_ids == {1, 5}
    assert spec.defaults == GenerationDefaults(top_p=0.9)
    assert spec.weight_bytes > 0
    prompt = prompt_of(20, 1)
    assert drive(engine, [Row(sequence_of(prompt, Extent(0, 64)), 8)]) == [
        reference(tiny_model("llama", torch.float32), prompt, 8)
    ]
    engine.close()


def test_the_context_is_what_the_kv_memory_can_hold_of_one_row(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    spec = load(folder, quantization="none").spec
    assert spec.context_length == 4096
    small = load_engine(LoadSettings(model=folder, device="cpu", kv_cache_memory=256 * 200, threads=1), lambda _: None)
    assert small.spec.context_length == small.spec.kv_capacity_tokens == 200
    with pytest.raises(UnavailableOptionError, match=r"--max-model-len 201 .* 200 tokens"):
        load_engine(
            LoadSettings(model=folder, device="cpu", kv_cache_memory=256 * 200, max_model_len=201), lambda _: None
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_dtype_asked_for_is_computed_in(folder, dtype):
    engine = load(folder, quantization="none", dtype=dtype)
    assert engine.spec.dtype == dtype
    assert str(engine._storage.layers[0].keys.dtype) == f"torch.{dtype}"


def test_auto_on_a_cpu_is_int8_and_float32(folder):
    spec = load(folder).spec
    assert (spec.quantization, spec.dtype) == ("int8", "float32")


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_progress_never_falls_and_ends_with_ready(folder, quantization):
    heard: list[LoadProgress] = []
    load_engine(settings(folder, quantization=quantization), heard.append)
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions)
    assert heard[0] == LoadProgress("checking files", 0)
    assert heard[-1] == LoadProgress("ready", 1)
    assert len([progress for progress in heard if progress.stage == "loading weights"]) > 5
    assert set_tqdm_hook(None) is None, "the hook is taken off again"


def test_transformers_prints_neither_bars_nor_advice(folder, capsys):
    load(folder)
    assert capsys.readouterr().err == ""


def test_weights_that_the_model_needs_and_the_file_lacks_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"lacks 1 weights of LlamaForCausalLM, first model\.layers\.1"):
        load(folder)


def test_an_unknown_architecture_is_one_line(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "from_the_future", "max_position_embeddings": 64}))
    with pytest.raises(LoadError, match="cannot be loaded") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_model_len": 129}, "--max-model-len 129 is more than the model's 128 tokens"),
        ({"kv_cache_memory": 1000}, "--kv-cache-memory"),
        ({"device": "cuda"}, "no CUDA device"),
    ],
)
def test_an_option_that_cannot_be_met_is_refused_by_name(folder, monkeypatch, options, complaint):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableOptionError, match=complaint):
        load_engine(LoadSettings(**{"model": folder, "device": "cpu", **options}), lambda _: None)


def test_a_context_length_that_nobody_names_has_to_be_given(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnavailableOptionError, match="give --max-model-len"):
        load(folder)
    assert load(folder, max_model_len=100).spec.context_length == 100


@pytest.mark.parametrize(
    ("rope", "constant"),
    [
        ({"rope_type": "longrope", "original_max_position_embeddings": 32}, 32),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"full_attention": {"rope_type": "dynamic"}, "sliding_attention": {"rope_type": "default"}}, 128),
    ],
)
def test_rotary_embeddings_that_depend_on_the_longest_row_are_refused(rope, constant):
    config = FAMILIES["llama"]()
    config.rope_parameters = rope
    check_rope(config, constant)
    with pytest.raises(UnsupportedModelError, match=f"--max-model-len {constant} or less"):
        check_rope(config, constant + 1)
