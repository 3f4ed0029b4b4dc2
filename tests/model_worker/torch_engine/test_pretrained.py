"""What stands in a model once transformers has read it as the plan says, for every scheme."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from model_worker.loading.load_errors import LoadError, ModelFolderError, UnavailableOptionError
from model_worker.loading.model_files import read_model_files
from model_worker.loading.schemes import QuantizationOptions
from model_worker.sequence import Extent
from model_worker.torch_engine.bitsandbytes_layers import is_bitsandbytes
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.load_plan import LoadPlan, LoadSettings
from model_worker.torch_engine.loader import load_engine
from model_worker.torch_engine.pretrained import load_pretrained
from model_worker.torch_engine.weight_report import weigh
from tests.model_worker.tiny_models import Row, drive, prompt_of, sequence_of, tiny_model

SCHEMES = ("int8", "bnb-nf4", "bnb-fp4", "bnb-int8")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model whose rows are whole blocks of bitsandbytes' 64 weights: narrower ones it cannot compute on every CPU."""
    folder = tmp_path_factory.mktemp("llama64")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=97, num_key_value_heads=2, max_position_embeddings=128)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def settings(folder, quantization, dtype="auto", **options):
    chosen = QuantizationOptions(**options)
    return LoadSettings(model=folder, device="cpu", dtype=dtype, quantization=quantization, quantization_options=chosen)


def loaded(folder, quantization, dtype="auto", **options):
    files = read_model_files(folder)
    plan = LoadPlan.of(settings(folder, quantization, dtype, **options), files)
    return load_pretrained(files.path, plan, lambda _: None)


def quantized_names(model):
    return {name for name, module in model.named_modules() if isinstance(module, Int8Linear) or is_bitsandbytes(module)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_modules_to_skip_stay_in_floating_point_and_all_others_do_not(saved, scheme):
    model = loaded(saved, scheme, skip_modules=("down_proj", "layers.1.self_attn.q_proj"))
    all_linear = {name for name, module in loaded(saved, "none").named_modules() if isinstance(module, nn.Linear)}
    head = set() if scheme == "int8" else {"lm_head"}
    skipped = {name for name in all_linear if "down_proj" in name} | {"model.layers.1.self_attn.q_proj"} | head
    assert quantized_names(model) == all_linear - skipped
    assert all(model.get_submodule(name).weight.dtype == torch.float32 for name in skipped)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_file_stays_mapped_once_a_model_is_quantized(saved, scheme):
    model = loaded(saved, scheme)
    assert all(tensor.untyped_storage().resizable() for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(("dtype", "compute_dtype"), [("float32", "bfloat16"), ("bfloat16", "auto")])
def test_the_compute_dtype_arrives_in_every_layer_of_four_bits(saved, dtype, compute_dtype):
    model = loaded(saved, "bnb-nf4", dtype, compute_dtype=compute_dtype, double_quantization=True)
    layers = [model.get_submodule(name) for name in quantized_names(model)]
    assert len(layers) == 14
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    assert all(layer.weight.quant_state.nested for layer in layers)
    assert model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_the_threshold_arrives_in_every_layer_of_bitsandbytes_int8(saved, threshold):
    model = loaded(saved, "bnb-int8", int8_threshold=threshold)
    assert {model.get_submodule(name).state.threshold for name in quantized_names(model)} == {threshold}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi3", "mixtral"])  # of ways to keep weights in files
def test_int8_while_reading_is_int8_after_reading(tmp_path, family):
    tiny_model(family, torch.float32).save_pretrained(tmp_path)
    model = loaded(tmp_path, "int8")
    expected = tiny_model(family, torch.float32)
    quantize_to_int8(expected, torch.device("cpu"))
    assert quantized_names(model) == quantized_names(expected) != set()
    theirs, ours = expected.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_int8_weight_of_the_wrong_size_is_refused(saved, tmp_path):
    weights = load_file(saved / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 64)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    with pytest.raises(LoadError, match="cannot be loaded"):
        loaded(tmp_path, "int8")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_report_counts_every_byte_of_a_quantized_layer_and_finds_no_weight_left_out(saved, scheme):
    model = loaded(saved, scheme, skip_modules=("lm_head",))
    report = weigh(model)
    assert report.unquantized_share == pytest.approx(97 * 64 / (97 * 64 + 2 * 36_864))
    weights = 2 * 36_864 // (2 if "4" in scheme else 1)
    quantized = report.bytes_by_dtype["uint8" if "4" in scheme else "int8"]
    assert quantized == weights
    rest = report.total_bytes - quantized - 2 * 4 * 97 * 64  # beside head and embedding
    assert 0 < rest < 0.6 * weights, "scales and norms"


STORED = {
    "bnb-nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "bnb-fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
    "bnb-int8": BitsAndBytesConfig(load_in_8bit=True),
}


@pytest.fixture(scope="module", params=STORED)
def stored(request, saved, tmp_path_factory):
    """The scheme, and a folder whose weights are in it, saved by transformers with all of its defaults."""
    folder = tmp_path_factory.mktemp(request.param)
    transformers.logging.set_verbosity_error()
    config = {"quantization_config": STORED[request.param], "device_map": {"": "cpu"}, "dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(saved, **config).save_pretrained(folder)
    return request.param, folder


def test_weights_quantized_on_disk_compute_what_weights_quantized_at_load_do(saved, stored):
    scheme, folder = stored
    double = {"double_quantization": True} if scheme == "bnb-fp4" else {}
    engines = [
        load_engine(settings(folder, "auto"), lambda _: None),
        load_engine(settings(folder, scheme), lambda _: None),
        load_engine(settings(saved, scheme, **double), lambda _: None),
    ]
    texts = []
    for engine in engines:
        assert engine.spec.quantization == scheme
        texts.append(drive(engine, [Row(sequence_of(prompt_of(20, 1), Extent(0, 64)), 8)]))
    logits = [loaded(*source)(torch.arange(3, 30)[None]).logits for source in ((folder, "auto"), (saved, scheme))]
    assert texts[0] == texts[1] == texts[2]
    assert engines[0].spec.weight_bytes == engines[2].spec.weight_bytes
    if not double:
        assert torch.equal(*logits)


def test_weights_quantized_on_disk_compute_as_we_say_and_not_as_they_were_saved(stored):
    scheme, folder = stored
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (said["bnb_4bit_compute_dtype"], said["llm_int8_threshold"]) == ("float32", 6.0)
    model = loaded(folder, "auto", "bfloat16")
    layers = [model.get_submodule(name) for name in quantized_names(model)]
    if scheme == "bnb-int8":
        assert {layer.state.threshold for layer in layers} == {0.0}
    else:
        assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}


@pytest.mark.parametrize("asked", ["none", "int8"])
def test_weights_quantized_on_disk_are_not_quantized_otherwise(stored, asked):
    scheme, folder = stored
    with pytest.raises(UnavailableOptionError, match=f"--quantization {asked}: .* is quantized already, as {scheme}$"):
        loaded(folder, asked)


def without(folder, lost, target):
    weights = load_file(folder / "model.safetensors")
    left = {name: weight for name, weight in weights.items() if not lost(name)}
    save_file(left, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text((folder / "config.json").read_text())
    return target


def test_weights_that_are_missing_from_quantized_files_are_not_made_up(stored, tmp_path):
    _, folder = stored
    with pytest.raises(LoadError, match=r"cannot be loaded|lacks 1 weights"):
        loaded(without(folder, lambda name: name.startswith("model.layers.1.mlp.up_proj."), tmp_path), "auto")


def test_scales_that_are_missing_from_quantized_files_are_not_made_up(stored, tmp_path):
    _, folder = stored
    layer = "model.layers.1.mlp.up_proj."
    with pytest.raises(ModelFolderError, match=r"lacks the scales of 1 quantized layers, first model\.layers\.1\.mlp"):
        loaded(without(folder, lambda name: name.startswith(layer) and name != layer + "weight", tmp_path), "auto")
