"""Rows of different LoRA adapters in one batch, against `generate()` of each adapter merged into its model."""


import pytest

from model_worker.sequence import Extent
from tests.model_worker.lora_folders import merged, write_adapter
from tests.model_worker.tiny_models import Row, drive, engine_for, prompt_of, reference, sequence_of, tiny_model

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


@pytest.mark.parametrize("family", ENDS)
@pytest.mark.parametrize("with_head", [False, True])
def test_rows_of_each_adapter_in_one_batch_equal_the_merged_model_alone(tmp_path, family, with_head):
    model = tiny_model(family)
    ends = ENDS[family]
    first = write_adapter(tmp_path / "first", model, ends, seed=1)
    second = write_adapter(tmp_path / "second", model, (*ends[:2], "lm_head") if with_head else ends[:2], seed=2)
    models = {"": tiny_model(family), "first": merged(family, first), "second": merged(family, second)}
    prompts = [prompt_of(length, seed) for seed, (_, length, _, _) in enumerate(PLANS)]
    expected = [reference(models[plan[0]], prompt, 12) for plan, prompt in zip(PLANS, prompts, strict=True)]
    with engine_for(model, adapters={"first": first, "second": second}) as engine:
        rows = [
            Row(sequence_of(prompt, Extent(100 * index, 64), adapter=adapter), 12, chunk, arrives)
            for index, (prompt, (adapter, _, chunk, arrives)) in enumerate(zip(prompts, PLANS, strict=True))
        ]
        assert drive(engine, rows) == expected
    base = [reference(models[""], prompt, 12) for prompt in prompts]
    differing = [ids != plain for ids, plain in zip(expected, base, strict=True)]
    assert differing == [bool(adapter) for adapter, *_ in PLANS], "an adapter that changes nothing shows nothing"
