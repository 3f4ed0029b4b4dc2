"""What is refused before readiness, by name: nothing that computes something else than the model is ever served."""

import pytest
import torch
import transformers

from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.torch_engine.attention_probe import probe_layers
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.self_test import self_test
from model_worker.torch_engine.unrounded import unrounded_activations
from tests.model_worker.tiny_models import FAMILIES, VOCABULARY, engine_for, tiny_model

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
REFUSED = {
    "bloom": lambda: transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "falcon": lambda: transformers.FalconConfig(**SIZES),
    "lfm2": lambda: transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
    "granitemoehybrid": lambda: transformers.GraniteMoeHybridConfig(
        **SIZES, layer_types=["mamba", "attention"], mamba_n_heads=4, mamba_d_head=16, shared_intermediate_size=32
    ),
    "recurrent_gemma": lambda: transformers.RecurrentGemmaConfig(
        **SIZES, block_types=["recurrent", "attention"], attention_window_size=16
    ),
    "llama4": lambda: transformers.Llama4TextConfig(**SIZES, intermediate_size_mlp=48, head_dim=8, num_local_experts=2),
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_the_engine_cannot_reproduce_is_refused_by_name(family):
    model = transformers.AutoModelForCausalLM.from_config(REFUSED[family]()).eval()
    with pytest.raises(UnsupportedModelError, match=type(model).__name__), engine_for(model) as engine:
        self_test(engine, model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_families_pass(family, dtype):
    model = tiny_model(family, dtype)
    with engine_for(model) as engine:
        assert self_test(engine, model).deviation >= 0


def test_an_int8_model_is_tested_as_sharply_as_any_other():
    model = tiny_model("llama", torch.float32)
    quantize_to_int8(model, torch.device("cpu"))
    with engine_for(model) as engine, unrounded_activations(model):
        assert self_test(engine, model).deviation < 1e-4


def test_a_layer_that_mixes_the_tokens_of_a_step_is_found():
    model = tiny_model("llama", torch.float32)
    layer = model.model.layers[1].mlp
    layer.register_forward_hook(lambda _module, _inputs, out: out + 0.1 * out.roll(1, dims=1))
    with engine_for(model) as engine, pytest.raises(UnsupportedModelError, match="self-test"):
        self_test(engine, model)


def test_an_engine_that_reads_what_a_stranger_left_is_found(monkeypatch):
    model = tiny_model("llama", torch.float32)
    with engine_for(model) as engine:
        for storage in engine._storage.layers:
            monkeypatch.setattr(type(storage), "write", lambda *_: None, raising=True)
            storage.keys.normal_()
        with pytest.raises(UnsupportedModelError, match="self-test"):
            self_test(engine, model)


def test_logits_that_are_not_numbers_are_refused():
    model = tiny_model("llama", torch.float32)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with engine_for(model) as engine, pytest.raises(UnsupportedModelError, match="nan"):
        self_test(engine, model)


def test_the_self_test_leaves_the_storage_clean():
    model = tiny_model("llama", torch.float32)
    with engine_for(model) as engine:
        self_test(engine, model)
        assert all(not storage.keys.any() and not storage.values.any() for storage in engine._storage.layers)


def test_an_option_that_the_engine_does_not_know_is_refused_by_its_name():
    model = tiny_model("llama")
    attention = model.model.layers[0].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs, position_bias=torch.zeros(1))
    with pytest.raises(UnsupportedModelError, match="position_bias"):
        probe_layers(model)


def test_the_probe_measures_what_a_token_costs():
    layers = probe_layers(tiny_model("qwen3"))
    assert [shape.bytes_per_token for shape in layers.values()] == [2 * 2 * 16 * 8] * 2  # K and V, heads, size, bytes
