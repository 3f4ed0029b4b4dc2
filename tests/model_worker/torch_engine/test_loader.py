"""Loading a folder from disk, end to end, on a tiny model saved in the test."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils.logging import set_tqdm_hook

from model_worker.engine import GenerationDefaults, OutOfMemory
from model_worker.loading.load_errors import LoadError, ModelFolderError, UnavailableOptionError, UnsupportedModelError
from model_worker.loading.load_progress import LoadProgress
from model_worker.loading.model_files import read_model_files
from model_worker.sequence import Extent
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.native import native_products
from model_worker.torch_engine.int8.packed_linear import PackedLinear
from model_worker.torch_engine.load_plan import LoadPlan, LoadSettings
from model_worker.torch_engine.loader import load_engine
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


@pytest.mark.parametrize(("quantization", "stage"), [("none", "loading weights"), ("int8", "quantizing")])
def test_progress_never_falls_and_leaves_ready_to_who_serves(folder, quantization, stage):
    heard: list[LoadProgress] = []
    load_engine(settings(folder, quantization=quantization), heard.append)
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions)
    assert heard[0] == LoadProgress("checking files", 0)
    assert heard[-1] == LoadProgress("testing", 0.95)
    assert len([progress for progress in heard if progress.stage == stage]) > 5
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


def reconfigure(folder, **config):
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | config))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "from_the_future"},
        {"hidden_size": 48},
        {"hidden_size": "abc"},
        {"num_attention_heads": 5},
        {"num_key_value_heads": 3},
        {"vocab_size": 50},
        {"num_hidden_layers": None},
        {"rope_parameters": 3},
    ],
)
def test_a_configuration_that_does_not_fit_is_one_line(folder, config):
    reconfigure(folder, **config)
    with pytest.raises(LoadError, match="cannot be loaded: ") as refused:
        load(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_layers_that_the_configuration_leaves_out_are_not_left_out(folder):
    reconfigure(folder, num_hidden_layers=1)
    with pytest.raises(ModelFolderError, match=r"has 9 weights for more layers .* first model\.layers\.1\."):
        load(folder)


def test_weights_that_are_none_of_the_models_are_said_in_one_line(folder, caplog):
    weights = load_file(folder / "model.safetensors")
    weights["vision.patches"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load(folder).close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"1 weights in {folder} are none of LlamaForCausalLM, first vision.patches"
    ]


def test_an_end_of_sequence_outside_the_vocabulary_is_refused_with_file_and_field(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 97]}))
    with pytest.raises(ModelFolderError, match=r"generation_config\.json: eos_token_id 97 .* vocabulary of 97 ids"):
        load(folder)


def test_memory_that_is_not_there_is_out_of_memory(folder, monkeypatch):
    with pytest.raises(OutOfMemory):
        load_engine(LoadSettings(model=folder, device="cpu", kv_cache_memory=2**50), lambda _: None)

    def too_much(*_args, **_kwargs):
        torch.empty(2**50)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", too_much)
    with pytest.raises(OutOfMemory):
        load(folder)


def test_on_a_gpu_the_device_has_its_number(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    wanted = LoadSettings(model=folder, dtype="bfloat16", quantization="none")
    assert str(LoadPlan.of(wanted, read_model_files(folder)).device) == "cuda:2"


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


def test_a_folder_for_compiled_code_that_others_may_write_to_is_refused_before_anything_is_read(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(UnavailableOptionError, match="other users may write there"):
        load_engine(LoadSettings(model=tmp_path / "no-model", compile=True, code_folder=tmp_path), lambda _: None)


def test_a_missing_compiler_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnavailableOptionError, match="no C\\+\\+ compiler"):
        load_engine(LoadSettings(model=tmp_path / "no-model", compile=True, code_folder=tmp_path), lambda _: None)


def count(engine, kind):
    return sum(isinstance(module, kind) for module in engine._model.modules())


def test_on_a_cpu_our_own_code_computes_int8_where_it_is_wanted_and_says_the_same(folder, tmp_path, native):
    tokens = []
    for wanted in (False, True):
        engine = load(folder, quantization="int8", native=wanted, code_folder=tmp_path / "code")
        own = count(engine, PackedLinear)
        assert (own > 0) == (wanted and native_products(native) is not None)
        assert own == 0 or count(engine, Int8Linear) == 0
        tokens.append(drive(engine, [Row(sequence_of(prompt_of(9, 1), Extent(0, 32)), 8)]))
        engine.close()
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("missing", ["compiler", "folder"])
def test_without_our_own_code_a_model_is_served_all_the_same(folder, tmp_path, monkeypatch, caplog, missing):
    if missing == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        tmp_path.chmod(0o777)
    engine = load(folder, quantization="int8", native=True, code_folder=tmp_path)
    try:
        assert count(engine, PackedLinear) == 0
    finally:
        engine.close()
    [line] = [line for line in caplog.messages if line.startswith("without our own code for CPUs")]
    assert ("no C++ compiler" if missing == "compiler" else "other users may write there") in line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's compiler meets its own
def test_compiled_layers_that_compute_something_else_are_refused(folder, tmp_path, monkeypatch):
    """What is served is tested, too: here a layer whose compiled code leaves its attention out."""
    from transformers.models.llama import modeling_llama

    good = load(folder, quantization="none", compile=True, code_folder=tmp_path / "good")
    assert good.spec.compiled
    good.close()
    torch.compiler.set_stance("default")
    torch._dynamo.reset()
    forward = modeling_llama.LlamaAttention.forward

    def wrong(self, *args, **kwargs):
        out, weights = forward(self, *args, **kwargs)
        return (0 * out if torch.compiler.is_compiling() else out), weights

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", wrong)
    with pytest.raises(UnsupportedModelError, match="failed the self-test"):
        load(folder, quantization="none", compile=True, code_folder=tmp_path / "wrong")
    torch.compiler.set_stance("default")
    torch._dynamo.reset()
