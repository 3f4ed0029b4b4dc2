"""What each scheme does to a model, and what is reported of it."""

import logging

import pytest
import torch

from model_worker.torch_engine.int8_linear import Int8Linear
from model_worker.torch_engine.quantization import bitsandbytes_config, quantize_to_int8, scheme_for
from model_worker.torch_engine.weight_report import WeightReport, weigh
from tests.model_worker.tiny_models import tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("requested", "device", "scheme"),
    [("auto", CPU, "int8"), ("auto", CUDA, "bnb-nf4"), ("none", CUDA, "none"), ("bnb-nf4", CPU, "bnb-nf4")],
)
def test_auto_is_the_scheme_that_pays_on_the_device(requested, device, scheme):
    assert scheme_for(requested, device) == scheme


@pytest.mark.parametrize("scheme", ["bnb-nf4", "bnb-fp4"])
def test_four_bits_compute_in_the_dtype_that_was_chosen(scheme):
    config = bitsandbytes_config(scheme, torch.bfloat16, double_quantization=True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.bnb_4bit_quant_type == scheme[-3:]
    assert config.bnb_4bit_use_double_quant


def test_bitsandbytes_int8_looks_for_no_outliers_across_rows():
    assert bitsandbytes_config("bnb-int8", torch.float32, double_quantization=False).llm_int8_threshold == 0.0
    assert bitsandbytes_config("int8", torch.float32, double_quantization=False) is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])  # plain; Conv1D; a head tied to the embedding
def test_int8_replaces_every_linear_layer_and_keeps_the_answer_close(family):
    model = tiny_model(family, torch.float32)
    ids = torch.arange(3, 30).unsqueeze(0)
    before = model(ids).logits
    heard: list[float] = []
    quantize_to_int8(model, CPU, heard.append)
    after = model(ids).logits
    assert isinstance(model.lm_head, Int8Linear)
    assert weigh(model).unquantized_share == 0
    assert heard == sorted(heard)
    assert heard[-1] == 1
    assert (after - before).square().mean().sqrt() < 0.25 * before.std()


def test_a_tied_embedding_stays_exact_beside_its_int8_head():
    model = tiny_model("opt", torch.float32)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    before = model.get_input_embeddings().weight.clone()
    quantize_to_int8(model, CPU, lambda _: None)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_fused_experts_that_stay_unquantized_are_reported(caplog):
    model = tiny_model("mixtral", torch.float32)
    quantize_to_int8(model, CPU, lambda _: None)
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
