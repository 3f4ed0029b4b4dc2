"""What each scheme asks of transformers, and what is done to a model."""

import logging

import pytest
import torch
from transformers import BitsAndBytesConfig

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.loading.schemes import QuantizationOptions
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.quantizer import Int8Config, quantize_to_int8
from model_worker.torch_engine.load_plan import LoadPlan
from model_worker.torch_engine.quantization import quantization_config, set_computation
from model_worker.torch_engine.weight_report import WeightReport, weigh
from tests.model_worker.tiny_models import FAMILIES, tiny_model

CPU = torch.device("cpu")
LLAMA = FAMILIES["llama"]()


def plan(scheme, dtype=torch.float32, **options):
    return LoadPlan(CPU, False, dtype, scheme, QuantizationOptions(**options), False)


def config_of(scheme, dtype=torch.float32, **options):
    return quantization_config(plan(scheme, dtype, **options), LLAMA)


@pytest.mark.parametrize("scheme", ["bnb-nf4", "bnb-fp4"])
def test_four_bits_compute_in_the_models_dtype_or_the_one_that_was_chosen(scheme):
    config = config_of(scheme, torch.bfloat16, double_quantization=True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.bnb_4bit_quant_type == scheme[-3:]
    assert config.bnb_4bit_use_double_quant
    assert config_of(scheme, torch.bfloat16, compute_dtype="float16").bnb_4bit_compute_dtype == torch.float16


def test_bitsandbytes_int8_looks_for_outliers_across_rows_only_where_it_is_told_to():
    assert config_of("bnb-int8").llm_int8_threshold == 0.0
    assert config_of("bnb-int8", int8_threshold=6.0).llm_int8_threshold == 6.0


def test_only_bitsandbytes_goes_through_bitsandbytes():
    assert config_of("none") is None
    assert isinstance(config_of("int8"), Int8Config)
    assert isinstance(config_of("bnb-int8"), BitsAndBytesConfig)


def test_weights_quantized_by_others_compute_as_we_say():
    config = FAMILIES["llama"]()
    config.quantization_config = {"bnb_4bit_compute_dtype": "float32", "llm_int8_threshold": 6, "load_in_4bit": True}
    set_computation(plan("bnb-nf4", torch.bfloat16), config)
    assert config.quantization_config == {
        "bnb_4bit_compute_dtype": torch.bfloat16,
        "llm_int8_threshold": 0.0,
        "load_in_4bit": True,
    }


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("lm_head", {"lm_head"}),
        ("down_proj", {"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}),
        ("layers.1.mlp", {f"model.layers.1.mlp.{kind}_proj" for kind in ("down", "gate", "up")}),
    ],
)
def test_a_module_to_skip_is_named_by_whole_parts_of_its_name(name, covered):
    assert config_of("int8", skip_modules=(name,)).kept == covered
    # bitsandbytes forgets the head, which it leaves alone by default, where it is given a list.
    assert set(config_of("bnb-nf4", skip_modules=(name,)).llm_int8_skip_modules) == covered | {"lm_head"}


@pytest.mark.parametrize("name", ["up", "proj", "model.layers.7", "embed_tokens", ""])
def test_a_module_to_skip_that_is_none_of_the_models_is_refused_with_what_there_is(name):
    with pytest.raises(UnavailableOptionError, match=f"skip-modules {name}: no linear layer .* down_proj, gate_proj,"):
        config_of("bnb-int8", skip_modules=("lm_head", name))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])  # plain; Conv1D; a head tied to the embedding
def test_int8_replaces_every_linear_layer_and_keeps_the_answer_close(family):
    model = tiny_model(family, torch.float32)
    ids = torch.arange(3, 30).unsqueeze(0)
    before = model(ids).logits
    quantize_to_int8(model, CPU)
    after = model(ids).logits
    assert isinstance(model.lm_head, Int8Linear)
    assert weigh(model).unquantized_share == 0
    assert (after - before).square().mean().sqrt() < 0.25 * before.std()


def test_a_tied_embedding_stays_exact_beside_its_int8_head():
    model = tiny_model("gpt2", torch.float32)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    before = model.get_input_embeddings().weight.clone()
    quantize_to_int8(model, CPU)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_fused_experts_that_stay_unquantized_are_reported(caplog):
    model = tiny_model("mixtral", torch.float32)
    quantize_to_int8(model, CPU)
    report = weigh(model)
    assert 0.2 < report.unquantized_share < 1
    with caplog.at_level(logging.INFO):
        report.log("int8")
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "% of the weights unquantized" in caplog.text


def test_an_unquantized_model_is_no_reason_for_a_warning(caplog):
    WeightReport({"float32": 10}, unquantized_share=1.0).log("none")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_shared_matrix_is_weighed_once():
    model = tiny_model("opt", torch.float32)
    assert weigh(model).total_bytes < 4 * sum(p.numel() for p in model.parameters()) + 4096
