"""The matrices of an adapter against the layers they are for."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_worker.loading.adapter_files import read_adapter_files
from model_worker.loading.load_errors import AdapterError
from model_worker.torch_engine.lora_linear import LoraLinear
from model_worker.torch_engine.lora_weights import adapter_bytes, attach_adapters
from tests.model_worker.lora_folders import write_adapter
from tests.model_worker.tiny_models import tiny_model

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path):
    return write_adapter(tmp_path / "sql", tiny_model("llama"), ("q_proj", "down_proj"))


def attach(folder, dtype=torch.float64):
    model = tiny_model("llama", dtype)
    attach_adapters(model, read_adapter_files({"sql": folder}, max_rank=16), dtype)
    return model


def rewrite(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def test_only_the_targets_are_wrapped_and_what_they_hold_is_weighed(folder):
    model = attach(folder)
    wrapped = [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    assert wrapped == [
        f"model.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    assert adapter_bytes(model) == 8 * 4 * 2 * ((32 + 32) + (48 + 32))  # bytes, rank, layers, widths


def test_matrices_are_copies_in_the_dtype_of_the_computation(folder):
    layer = attach(folder, torch.bfloat16).model.layers[0].self_attn.q_proj
    [pair] = layer._pairs.values()
    assert {pair.a.dtype, pair.b.dtype} == {torch.bfloat16}
    assert pair.a.untyped_storage().nbytes() == pair.a.nbytes


def test_a_model_without_adapters_is_left_as_it_is():
    model = tiny_model("llama")
    attach_adapters(model, [], torch.float64)
    assert not [module for module in model.modules() if isinstance(module, LoraLinear)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop(f"{QUERY}.lora_B.weight"), rf"lacks 1 weights of its targets, first {QUERY}\.lora_B"),
        (lambda w: w.update({f"{QUERY}.lora_magnitude_vector": torch.ones(1)}), "1 of its weights are of no targeted"),
        (lambda w: w.update({"base_model.model.lm_head.base_layer.weight": torch.ones(1)}), "carries a base weight"),
        (lambda w: w.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}), "lm_head.lora_A.weight"),
        (lambda w: w.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(1)}), "embedding_A"),
        (lambda w: w.update({f"{QUERY}.lora_A.weight": torch.ones(4, 30)}), r"is \[4, 30\] where .* \[4, 32\]"),
        (lambda w: w.update({f"{QUERY}.lora_B.weight": torch.ones(32, 5)}), r"is \[32, 5\] where .* \[32, 4\]"),
        (lambda w: w.update({f"{QUERY}.lora_A.weight": torch.full((4, 32), torch.nan)}), "no finite numbers in float"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_in_one_line(folder, change, complaint):
    rewrite(folder, change)
    with pytest.raises(AdapterError, match=complaint) as refused:
        attach(folder)
    assert str(refused.value).startswith("adapter sql: ")
    assert "\n" not in str(refused.value)


def test_a_number_too_large_for_the_dtype_is_no_finite_number(folder):
    rewrite(folder, lambda weights: weights[f"{QUERY}.lora_A.weight"].fill_(1e5))
    attach(folder)
    with pytest.raises(AdapterError, match="no finite numbers in float16"):
        attach(folder, torch.float16)


def test_a_target_that_the_model_does_not_have_is_refused_by_name(tmp_path):
    folder = write_adapter(tmp_path / "sql", tiny_model("gpt2"), ("c_attn",))
    with pytest.raises(AdapterError, match="'c_attn' is no linear layer of LlamaForCausalLM"):
        attach(folder)


def test_an_embedding_is_no_linear_layer(tmp_path):
    folder = write_adapter(
        tmp_path / "sql", tiny_model("llama"), ("q_proj",), target_modules=["q_proj", "embed_tokens"]
    )
    with pytest.raises(AdapterError, match="'embed_tokens' is no linear layer"):
        attach(folder)


def test_an_adapter_of_a_larger_model_of_the_family_is_refused(tmp_path):
    larger = tiny_model("llama")
    larger.model.layers.append(copy.deepcopy(larger.model.layers[0]))
    with pytest.raises(AdapterError, match=r"2 of its weights are of no targeted linear layer, first .*layers\.2\."):
        attach(write_adapter(tmp_path / "sql", larger, ("q_proj",)))
