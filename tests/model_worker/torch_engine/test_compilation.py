"""Compiled layers compute what eager ones do; what does not compile runs eager, and nothing is compiled later."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from model_worker.engine import OutOfMemory
from model_worker.sequence import Extent
from model_worker.torch_engine.attention.native import NativeAttention, build
from model_worker.torch_engine.compilation import compiled
from model_worker.torch_engine.int8_quantizer import quantize_to_int8
from model_worker.torch_engine.transformers_engine import TransformersEngine
from model_worker.torch_engine.warm_up import warm_up
from tests.model_worker.tiny_models import Row, drive, engine_for, prompt_of, reference, sequence_of, tiny_model

# torch's compiler meets its own deprecated parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@contextmanager
def compiling() -> Iterator[None]:
    """Let nothing that was compiled stay for other tests."""
    try:
        yield
    finally:
        torch.compiler.set_stance("default")
        torch._dynamo.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def rows(lengths) -> list[Row]:
    return [
        Row(sequence_of(prompt_of(length, seed), Extent(64 * seed, 64)), new_tokens, chunk)
        for seed, (length, chunk, new_tokens) in enumerate(lengths)
    ]


def graphs_made() -> int:
    return sum(torch._dynamo.utils.counters["stats"].values())


# The four ways in which layers differ from one another: not at all, by window and soft-cap, by Conv1D and learned
# positions, by experts.
@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "mixtral"])
def test_compiled_families_give_the_tokens_of_generate(family, folder):
    check_tokens(family, folder)


def test_a_compiled_model_gives_the_tokens_of_generate(folder):
    check_tokens("llama", folder)


def check_tokens(family, folder):
    model = tiny_model(family, dtype=torch.float64)
    lengths = [(9, 9, 8), (1, 1, 12), (30, 7, 10), (17, 4, 6)]
    expected = [reference(model, prompt_of(length, seed), new) for seed, (length, _, new) in enumerate(lengths)]
    with compiling(), engine_for(model, kernel=NativeAttention(build(folder))) as engine:
        is_compiled = compiled(model, folder, partial(warm_up, engine))
        before = graphs_made()
        assert drive(engine, rows(lengths)) == expected
        assert drive(engine, rows(lengths[:1])) == expected[:1]
        assert graphs_made() == before, "something was compiled while requests waited"
    assert is_compiled or family == "mixtral"  # experts are chosen by what is computed, which is no one graph


def test_a_compiled_int8_row_has_the_same_bits_alone_and_beside_others(folder):
    model = tiny_model("llama", dtype=torch.float32)
    quantize_to_int8(model, torch.device("cpu"))
    lengths = [(30, 7, 10), (9, 9, 8), (17, 4, 6)]
    with compiling(), engine_for(model, kernel=NativeAttention(build(folder)), quantization="int8") as engine:
        assert compiled(model, folder, partial(warm_up, engine))
        together = drive(engine, rows(lengths))
        alone = [drive(engine, [row])[0] for row in rows(lengths)]
    assert together == alone


def test_what_does_not_compile_runs_eager_and_says_so(folder, caplog):
    model = tiny_model("llama")
    layer = model.model.layers[1]
    forward = layer.forward

    def unsteady(*args, **kwargs):
        torch._dynamo.graph_break()
        return forward(*args, **kwargs)

    layer.forward = unsteady
    expected = reference(model, prompt_of(9, 0), 4)
    with compiling(), engine_for(model) as engine, caplog.at_level(logging.WARNING):
        assert not compiled(model, folder, partial(warm_up, engine))
        assert drive(engine, rows([(9, 9, 4)])) == [expected]
    [line] = caplog.messages
    assert line.startswith("LlamaForCausalLM does not compile and runs eager: ")
    assert "\n" not in line


def test_out_of_memory_while_compiling_is_no_reason_to_go_on(folder):
    model = tiny_model("llama")

    def too_much() -> None:
        raise OutOfMemory

    with compiling(), pytest.raises(OutOfMemory):
        compiled(model, folder, too_much)


def test_the_warm_up_leaves_the_storage_clean():
    model = tiny_model("llama")
    with engine_for(model) as engine:
        warm_up(engine)
        assert isinstance(engine, TransformersEngine)
        assert not any(store.keys.any() or store.values.any() for store in engine._storage.layers)
