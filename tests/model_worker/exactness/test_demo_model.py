"""The demo model in random schedules: in float32 against `generate()`, ties counted; in int8 its own bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model_worker.sequence import SamplingParams
from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.asks import Manner, Prompt
from tests.model_worker.exactness.check import explore
from tests.model_worker.exactness.kernels import all_kernels
from tests.model_worker.exactness.oracles import Alone, Generate
from tests.model_worker.exactness.stage import Kernels
from tests.model_worker.exactness.strategies import any_schedule
from tests.model_worker.exactness.subjects import Subject
from tests.model_worker.exactness.tally import Tally
from tests.model_worker.tiny_models import engine_for

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

TEXT = "The lighthouse keeper wrote in his log every evening: the wind, the ships that passed, and "
ENDS = ["the state of the lamp.", "what he had for dinner, which was", "nothing at all"]
MANNERS = [Manner(logprobs=5), Manner(SamplingParams(temperature=1.0, top_p=0.9), logprobs=1)]


def texts(folder: Path) -> list[Prompt]:
    """A text, its continuations and its beginnings."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = [TEXT[:4], TEXT[:33], *(TEXT + end for end in ENDS), "def add(a, b):\n    return"]
    return [tuple(tokenizer.encode(text).ids) for text in known]


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@contextmanager
def in_float32(folder: Path, native: NativeLibrary) -> Iterator[Subject]:
    kernels, oracle = all_kernels(native), Generate({"": loaded(folder)})
    with engine_for(loaded(folder), kernel=kernels, native=native) as engine:
        yield Subject("demo model float32", engine, kernels, oracle, texts(folder), gap=oracle.gap)


@contextmanager
def in_int8(folder: Path, kernels: Kernels) -> Iterator[Subject]:
    model = loaded(folder)
    quantize_to_int8(model, torch.device("cpu"))
    with engine_for(model, quantization="int8", kernel=kernels) as engine:
        name = f"demo model int8 {kernels.chosen}"
        yield Subject(name, engine, kernels, Alone(engine), texts(folder), manners=MANNERS, logprob_tolerance=0.0)


def test_float32_rows_say_what_generate_says_alone(demo_model: Path, native: NativeLibrary, tally: Tally) -> None:
    with in_float32(demo_model, native) as subject:
        explore(subject, any_schedule(subject), tally, 4)


@pytest.mark.slow
def test_float32_rows_say_what_generate_says_alone_in_more_schedules(
    demo_model: Path, native: NativeLibrary, tally: Tally
) -> None:
    with in_float32(demo_model, native) as subject:
        explore(subject, any_schedule(subject), tally, 15)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["token by token", "native"])
def test_int8_rows_have_the_bits_that_they_have_alone(
    demo_model: Path, native: NativeLibrary, tally: Tally, kernel: str
) -> None:
    exact = NativeAttention(native) if kernel == "native" else ViewAttention(token_by_token=True)
    with in_int8(demo_model, Kernels({kernel: exact})) as subject:
        explore(subject, any_schedule(subject), tally, 12)
