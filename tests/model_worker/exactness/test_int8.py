"""Rows of an 8-bit model, and of adapters on it: the same bits alone and in any schedule, told by log-probabilities.

Each kernel that a CPU uses for them has bits of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model_worker.sequence import SamplingParams
from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.int8.packed_linear import pack_linears
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.asks import Manner
from tests.model_worker.exactness.check import explore
from tests.model_worker.exactness.oracles import Alone
from tests.model_worker.exactness.stage import Kernels
from tests.model_worker.exactness.strategies import any_schedule, brief_schedule, prompt_pool
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Tally
from tests.model_worker.lora_folders import write_adapter
from tests.model_worker.tiny_models import FAMILIES, engine_for

MANNERS = [
    Manner(logprobs=5),
    Manner(logprobs=5, prompt_logprobs=1),
    Manner(SamplingParams(temperature=2.0, top_p=0.9), logprobs=5),
]
# Fused attention, attention spelled out for its soft-cap, learned positions.
CASES = [
    ("llama", "native"),
    ("gemma2", "token by token"),
    pytest.param(("llama", "token by token"), marks=pytest.mark.slow),
    pytest.param(("gemma2", "native"), marks=pytest.mark.slow),
    pytest.param(("gpt2", "token by token"), marks=pytest.mark.slow),
    pytest.param(("gpt2", "native"), marks=pytest.mark.slow),
]


def int8_model(family: str) -> PreTrainedModel:
    """As wide as kernels like it: torch computes what is beyond a multiple of 32 with another `exp`."""
    torch.manual_seed(0)
    config = FAMILIES[family]()
    wide = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
    config.update(wide)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def subject(
    request: pytest.FixtureRequest, native: NativeLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    family, kernel = request.param
    model = int8_model(family)
    adapters = {}
    if family == "llama":
        adapters["sql"] = write_adapter(tmp_path_factory.mktemp("adapter") / "sql", model, ("q_proj", "down_proj"))
    quantize_to_int8(model, torch.device("cpu"))
    exact = NativeAttention(native) if kernel == "native" else ViewAttention(token_by_token=True)
    kernels = Kernels({kernel: exact})
    with engine_for(model, quantization="int8", kernel=kernels, adapters=adapters, native=native) as engine:
        if kernel == "native":
            pack_linears(model, native)
        yield Subject(
            name=f"int8 {family} {kernel}",
            engine=engine,
            kernels=kernels,
            oracle=Alone(engine),
            prompts=prompt_pool(),
            manners=MANNERS,
            adapters=("", *adapters),
            logprob_tolerance=0.0,
        )


def test_rows_have_the_bits_that_they_have_alone(subject: Subject, tally: Tally) -> None:
    explore(subject, brief_schedule(subject), tally, 2)


@pytest.mark.slow
def test_rows_have_the_bits_that_they_have_alone_in_many_schedules(subject: Subject, tally: Tally) -> None:
    explore(subject, any_schedule(subject), tally, 50)
