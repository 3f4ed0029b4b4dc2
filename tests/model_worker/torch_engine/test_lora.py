"""Rows of different LoRA adapters in one batch, against `generate()` of each adapter merged into its model."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model_worker.engine import Segment
from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.sequence import Extent
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.load_plan import LoadSettings
from model_worker.torch_engine.loader import load_engine
from model_worker.torch_engine.lora_linear import LoraLinear
from model_worker.torch_engine.self_test import self_test
from model_worker.torch_engine.transformers_engine import TransformersEngine
from tests.model_worker.lora_folders import add_to_layers, merged, write_adapter
from tests.model_worker.tiny_models import (
    FAMILIES,
    Row,
    drive,
    engine_for,
    prompt_of,
    reference,
    sequence_of,
    tiny_model,
)

ENDS = {"llama": ("q_proj", "v_proj", "up_proj", "down_proj"), "gpt2": ("c_attn", "c_fc", "c_proj")}
# Adapter, prompt length, chunk, arrival.
PLANS = [
    ("first", 5, 99, 0),
    ("", 23, 7, 0),
    ("second", 9, 99, 2),
    ("first", 40, 16, 3),
    ("second", 12, 1, 5),
    ("", 6, 99, 1),
]
PROMPTS = [prompt_of(length, seed) for seed, (_, length, _, _) in enumerate(PLANS)]


def wide_model() -> PreTrainedModel:
    """A model in float32 whose layers are as wide as kernels like it.

    4 bits take 64 inputs at a time, and torch computes the last elements beyond a multiple of 32 with another `exp`.
    """
    torch.manual_seed(0)
    config = FAMILIES["llama"]()
    config.update({"hidden_size": 64, "intermediate_size": 64, "head_dim": 16})
    return AutoModelForCausalLM.from_config(config).eval()


def driven(engine: TransformersEngine) -> list[list[int]]:
    """What the rows of PLANS generate together."""
    return drive(
        engine,
        [
            Row(sequence_of(prompt, Extent(100 * index, 64), adapter=adapter), 12, chunk, arrives)
            for index, (prompt, (adapter, _, chunk, arrives)) in enumerate(zip(PROMPTS, PLANS, strict=True))
        ],
    )


@pytest.mark.parametrize("family", ENDS)
@pytest.mark.parametrize("with_head", [False, True])
def test_rows_of_each_adapter_in_one_batch_equal_the_merged_model_alone(tmp_path, family, with_head):
    model = tiny_model(family)
    ends = ENDS[family]
    first = write_adapter(tmp_path / "first", model, ends, seed=1)
    second = write_adapter(tmp_path / "second", model, (*ends[:2], "lm_head") if with_head else ends[:2], seed=2)
    models = {"": tiny_model(family), "first": merged(family, first), "second": merged(family, second)}
    expected = [reference(models[plan[0]], prompt, 12) for plan, prompt in zip(PLANS, PROMPTS, strict=True)]
    with engine_for(model, adapters={"first": first, "second": second}) as engine:
        assert driven(engine) == expected
    plain = [reference(models[""], prompt, 12) for prompt in PROMPTS]
    differing = [ids != base for ids, base in zip(expected, plain, strict=True)]
    assert differing == [bool(adapter) for adapter, *_ in PLANS], "an adapter that changes nothing shows nothing"


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"use_rslora": True}, lambda _: 8 / 2),
        ({"rank_pattern": {"q_proj": 8}, "lora_alpha": 8}, lambda name: 1.0 if "q_proj" in name else 2.0),
        ({"alpha_pattern": {r"layers\.1\..*": 2}}, lambda name: 0.5 if "layers.1" in name else 2.0),
        ({"target_modules": "all-linear", "exclude_modules": r".*(k_proj|o_proj|gate_proj)"}, lambda _: 2.0),
        ({"target_modules": r".*(q_proj|v_proj|up_proj|down_proj)"}, lambda _: 2.0),
    ],
)
def test_ranks_scalings_and_targets_mean_what_they_mean_to_the_merged_model(tmp_path, config, scaling):
    model = tiny_model("llama")
    ranks = config.get("rank_pattern", {})
    folder = write_adapter(
        tmp_path / "first", model, ENDS["llama"], ranks=lambda name: ranks.get(name.rpartition(".")[2], 4), **config
    )
    expected = reference(merged("llama", folder, scaling), PROMPTS[0], 12)
    with engine_for(model, adapters={"first": folder}) as engine:
        assert drive(engine, [Row(sequence_of(PROMPTS[0], Extent(0, 64), adapter="first"), 12)]) == [expected]


def test_rows_of_adapters_over_an_int8_model_equal_that_model_with_the_matrices_added_alone(tmp_path):
    def int8_model():
        # In float64, where the rounding to 8 bits meets the same numbers alone and in a batch.
        model = tiny_model("llama")
        quantize_to_int8(model, torch.device("cpu"))
        return model

    folders = {
        name: write_adapter(tmp_path / name, tiny_model("llama"), ENDS["llama"], seed=seed)
        for seed, name in enumerate(["first", "second"])
    }
    expected = []
    for prompt, (adapter, *_) in zip(PROMPTS, PLANS, strict=True):
        model = int8_model()
        if adapter:
            add_to_layers(model, folders[adapter])
        expected.append(reference(model, prompt, 12))
    with engine_for(int8_model(), quantization="int8", adapters=folders) as engine:
        assert driven(engine) == expected


def test_an_int8_row_of_an_adapter_has_the_same_bits_alone_in_any_batch_and_any_chunking(tmp_path):
    model = wide_model()
    folder = write_adapter(tmp_path / "first", model, ENDS["llama"])
    quantize_to_int8(model, torch.device("cpu"))
    prompt = prompt_of(60, 1)

    def bits(engine: TransformersEngine, chunk: int, neighbours: int) -> torch.Tensor:
        row = sequence_of(prompt, Extent(0, 60), adapter="first")
        others = [
            sequence_of(prompt_of(60, 2 + index), Extent(60 * (index + 1), 60), adapter="first" if index % 2 else "")
            for index in range(neighbours)
        ]
        for start in range(0, 60, chunk):
            engine.last_logits([Segment(each, start, chunk, draws=False) for each in [*others, row]])
        return engine._storage.layers[1].keys[:60].clone()

    with engine_for(model, quantization="int8", adapters={"first": folder}) as engine:
        alone = bits(engine, chunk=60, neighbours=0)
        for chunk, neighbours in [(1, 0), (5, 0), (60, 3), (4, 7), (1, 3)]:
            assert torch.equal(bits(engine, chunk, neighbours), alone)


@pytest.mark.slow
def test_compiled_layers_share_one_code_whatever_adapters_a_step_has(tmp_path):
    model = tiny_model("llama")
    folders = {
        name: write_adapter(tmp_path / name, tiny_model("llama"), ENDS["llama"], seed=seed)
        for seed, name in enumerate(["first", "second"])
    }
    models = {"": tiny_model("llama")} | {name: merged("llama", folder) for name, folder in folders.items()}
    expected = [reference(models[plan[0]], prompt, 12) for plan, prompt in zip(PLANS, PROMPTS, strict=True)]
    counters.clear()
    with engine_for(model, adapters=folders) as engine:
        for layer in model.model.layers:
            layer.compile(dynamic=True, fullgraph=True, backend="aot_eager")
        assert driven(engine) == expected
    assert counters["stats"]["unique_graphs"] <= 2, "one for a single token, one for more"


@pytest.mark.parametrize("quantization", ["none", "int8", "bnb-nf4", "bnb-int8"])
def test_a_loaded_engine_names_weighs_and_proves_its_adapters(tmp_path, quantization):
    model = wide_model()
    model.save_pretrained(tmp_path / "model")
    folders = {name: write_adapter(tmp_path / name, model, ENDS["llama"]) for name in ("sql", "legal")}

    def load(adapters):
        settings = LoadSettings(
            model=tmp_path / "model", device="cpu", quantization=quantization, kv_cache_memory=2**20, threads=1,
            adapters=adapters,
        )  # fmt: skip
        return load_engine(settings, lambda _: None)

    plain, engine = load({}), load(folders)
    assert (plain.spec.adapters, engine.spec.adapters) == ((), ("sql", "legal"))
    matrices = 4 * ((64 + 64) + (64 + 32) + (64 + 64) + (64 + 64))  # rank, widths of q, v, up and down
    assert engine.spec.weight_bytes - plain.spec.weight_bytes == 2 * 2 * 4 * matrices  # adapters, layers, bytes
    [base, adapted] = drive(
        engine,
        [Row(sequence_of(PROMPTS[1], Extent(64 * row, 64), adapter=name), 8) for row, name in enumerate(["", "sql"])],
    )
    assert base != adapted
    plain.close()
    engine.close()


def test_an_adapter_that_reaches_rows_of_others_fails_the_self_test(tmp_path, monkeypatch):
    model = tiny_model("llama", torch.float32)
    folder = write_adapter(tmp_path / "sql", model, ENDS["llama"])
    with engine_for(model, adapters={"sql": folder}) as engine:
        assert self_test(engine, model).deviation < 1e-3
        added = LoraLinear.add_pairs
        monkeypatch.setattr(LoraLinear, "add_pairs", lambda layer, out, x: added(layer, out, x.roll(1, dims=1)))
        with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM with adapter 'sql' failed the self-test"):
            self_test(engine, model)
