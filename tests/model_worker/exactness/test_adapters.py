"""Rows of several LoRA adapters and of the base model in one batch, against `generate()` of each merged model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.check import explore
from tests.model_worker.exactness.kernels import all_kernels
from tests.model_worker.exactness.oracles import Generate
from tests.model_worker.exactness.strategies import any_schedule, brief_schedule, prompt_pool
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Tally
from tests.model_worker.lora_folders import merged, write_adapter
from tests.model_worker.tiny_models import engine_for, tiny_model

LAYERS = {"llama": ("q_proj", "v_proj", "up_proj", "down_proj"), "gpt2": ("c_attn", "c_fc", "c_proj")}


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def subject(
    request: pytest.FixtureRequest, native: NativeLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    family, model = request.param, tiny_model(request.param)
    folder = tmp_path_factory.mktemp("adapters")
    layers = {"all": LAYERS[family], "few": LAYERS[family][:1]}
    folders = {
        name: write_adapter(folder / name, model, ends, seed) for seed, (name, ends) in enumerate(layers.items())
    }
    kernels = all_kernels(native)
    oracle = Generate({"": tiny_model(family)} | {name: merged(family, folders[name]) for name in folders})
    with engine_for(model, adapters=folders, kernel=kernels, native=native) as engine:
        yield Subject(
            name=f"adapters {family} {engine.spec.dtype}",
            engine=engine,
            kernels=kernels,
            oracle=oracle,
            prompts=prompt_pool(),
            adapters=("", *folders),
        )


def test_rows_of_each_adapter_say_what_the_merged_model_says_alone(subject: Subject, tally: Tally) -> None:
    explore(subject, brief_schedule(subject), tally, 2)


@pytest.mark.slow
def test_rows_of_each_adapter_say_what_the_merged_model_says_alone_in_many_schedules(
    subject: Subject, tally: Tally
) -> None:
    assert "adapter" in explore(subject, any_schedule(subject), tally, 100)
