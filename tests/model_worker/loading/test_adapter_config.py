"""What adapter_config.json means, and what in it is refused by name."""

import json
import math

import pytest

from model_worker.loading.adapter_config import AdapterConfig, read_adapter_config
from model_worker.loading.load_errors import AdapterError, ModelFolderError

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "mlp.down_proj"]}
# What peft 0.21 writes besides, switched off.
PEFT = PLAIN | {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": {"library": "x"},
    "base_model_name_or_path": "some/model", "bias": "none", "exclude_modules": None, "fan_in_fan_out": True,
    "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_bias": False, "lora_dropout": 0.1, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_version": "0.21.2", "qalora_group_size": 16,
    "rank_pattern": {}, "revision": None, "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
}  # fmt: skip
QUERY, UP, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.12.mlp.down_proj"
HEAD = "lm_head"


def read(tmp_path, **changes) -> AdapterConfig:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(PEFT | changes))
    return read_adapter_config(file)


@pytest.mark.parametrize(
    ("changes", "module", "rank", "scaling"),
    [
        ({}, QUERY, 8, 2.0),
        ({"use_rslora": True}, QUERY, 8, 16 / math.sqrt(8)),
        ({"rank_pattern": {"q_proj": 4}}, QUERY, 4, 4.0),
        ({"rank_pattern": {"q_proj": 4}}, DOWN, 8, 2.0),
        ({"rank_pattern": {"proj": 4}}, QUERY, 8, 2.0),  # a whole part of the name, or none
        ({"rank_pattern": {r"layers\.1\..*": 4, "q_proj": 2}}, QUERY, 4, 4.0),  # the first that matches
        ({"alpha_pattern": {r"^model\.layers\.1\.self_attn\.q_proj": 32}}, QUERY, 8, 4.0),
        ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 6}, "use_rslora": True}, QUERY, 4, 3.0),
    ],
)
def test_rank_and_scaling_of_a_module(tmp_path, changes, module, rank, scaling):
    config = read(tmp_path, **changes)
    assert config.rank_of(module) == rank
    assert config.scaling_of(module) == pytest.approx(scaling, rel=1e-15)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {QUERY, DOWN}),
        ({"target_modules": ["down_proj", "lm_head"]}, {DOWN, HEAD}),
        ({"target_modules": ["proj"]}, set()),
        ({"target_modules": r".*\.(q|up)_proj"}, {QUERY, UP}),
        ({"target_modules": "q_proj"}, set()),  # a text is an expression for the whole name
        ({"target_modules": "All-Linear"}, {QUERY, UP, DOWN}),
        ({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj"]}, {QUERY, DOWN}),
        ({"target_modules": "all-linear", "exclude_modules": r".*layers\.1\..*"}, {DOWN}),
        ({"layers_to_transform": [12]}, {DOWN}),
        ({"layers_to_transform": 1, "layers_pattern": "layers"}, {QUERY}),
        ({"layers_to_transform": [1, 12], "layers_pattern": ["h"]}, set()),
        ({"layers_to_transform": [7], "target_modules": [QUERY]}, {QUERY}),  # a whole name is beyond doubt
    ],
)
def test_the_modules_that_an_adapter_changes(tmp_path, changes, wanted):
    config = read(tmp_path, **changes)
    assert {name for name in (QUERY, UP, DOWN, HEAD) if config.wants(name, is_head=name == HEAD)} == wanted


@pytest.mark.parametrize(
    ("targets", "strangers"),
    [
        (["q_proj", "down_proj"], []),
        (["q_proj", "query", "proj"], ["query", "proj"]),
        ("all-linear", []),
        (r".*\.q_proj", []),
        (r".*\.query", [r".*\.query"]),
    ],
)
def test_targets_that_are_no_module_are_named(tmp_path, targets, strangers):
    assert read(tmp_path, target_modules=targets).strangers([QUERY, UP, DOWN, HEAD]) == strangers


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"peft_type": None}, "peft_type None"),
        ({"task_type": "SEQ_CLS"}, "task 'SEQ_CLS'"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"bias": ["all"]}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"from_the_future": 1}, "sets from_the_future, which is not served"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', for which the base model was changed"),
        ({"init_lora_weights": {}}, "init_lora_weights"),
        ({"r": 0}, "r 0; a rank is at least 1"),
        ({"r": None}, "r None"),
        ({"r": True}, "r True"),
        ({"rank_pattern": {"q_proj": 0.5}}, "rank_pattern 0.5"),
        ({"rank_pattern": [4]}, "rank_pattern"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": math.inf}, "lora_alpha inf"),
        ({"alpha_pattern": {"(": 4}}, r"alpha_pattern '\(', which is no regular expression"),
        ({"target_modules": None}, "names no target_modules"),
        ({"target_modules": ["q_proj", 4]}, "target_modules"),
        ({"target_modules": "["}, "no regular expression"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform"),
        ({"layers_pattern": ["("]}, "layers_pattern"),
    ],
)
def test_what_is_not_served_is_refused_by_name_in_one_line(tmp_path, changes, complaint):
    with pytest.raises(AdapterError, match=complaint) as refused:
        read(tmp_path, **changes)
    assert str(refused.value).startswith(f"{tmp_path / 'adapter_config.json'} ")
    assert "\n" not in str(refused.value)


def test_a_beginning_that_leaves_the_base_model_alone_is_served(tmp_path):
    assert read(tmp_path, init_lora_weights="gaussian").rank == 8


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"adapter_config\.json cannot be read"):
        read_adapter_config(tmp_path / "adapter_config.json")
