"""Compiled layers compute what eager ones do; what does not compile runs eager, and nothing is compiled later."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from model_worker.engine import OutOfMemory
from model_worker.sequence import Extent
from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.compilation import compiled
from model_worker.torch_engine.int8.packed_linear import pack_linears
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
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


def rows(lengths, **params) -> list[Row]:
    return [
        Row(sequence_of(prompt_of(length, seed), Extent(64 * seed, 64), **params), new_tokens, chunk)
        for seed, (length, chunk, new_tokens) in enumerate(lengths)
    ]


def driven_as_compiled(engine, rows) -> list[list[int]]:
    """Drive `engine` by compiled code alone, in a thread that did not compile: as in a worker, but for the stance.

    There, what would need another graph runs eager, and only the time tells.
    """
    torch.compiler.set_stance("fail_on_recompile")
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(drive, engine, rows).result()


# Layers that are alike, that differ by window and soft-cap, that have Conv1D and learned positions; and experts, which
# are chosen by what is computed: that is no one graph.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "compiles"), [("llama", True), ("gemma2", True), ("gpt2", True), ("mixtral", False)]
)
def test_compiled_families_give_the_tokens_of_generate(family, compiles, folder, native):
    model = tiny_model(family, dtype=torch.float64)
    lengths = [(9, 9, 8), (1, 1, 12), (30, 7, 10), (17, 4, 6)]
    expected = [reference(model, prompt_of(length, seed), new) for seed, (length, _, new) in enumerate(lengths)]
    with compiling(), engine_for(model, kernel=NativeAttention(native), native=native) as engine:
        assert compiled(model, folder, partial(warm_up, engine)) == compiles
        driven = driven_as_compiled if compiles else drive
        assert driven(engine, rows(lengths)) == expected
        assert driven(engine, rows(lengths[:1])) == expected[:1]
        assert driven(engine, rows(lengths[:1], prompt_logprobs=2)) == expected[:1]


@pytest.mark.slow
def test_a_compiled_int8_row_has_the_same_bits_alone_and_beside_others(folder, native):
    model = tiny_model("llama", dtype=torch.float32)
    quantize_to_int8(model, torch.device("cpu"))
    pack_linears(model, native)
    lengths = [(30, 7, 10), (9, 9, 8), (17, 4, 6)]
    with compiling(), engine_for(model, kernel=NativeAttention(native), native=native, quantization="int8") as engine:
        assert compiled(model, folder, partial(warm_up, engine))
        together = driven_as_compiled(engine, rows(lengths))
        alone = [driven_as_compiled(engine, [row])[0] for row in rows(lengths)]
    assert together == alone


@pytest.mark.slow
def test_the_next_start_finds_what_was_compiled(folder):
    for _ in range(2):
        model = tiny_model("llama")
        torch._dynamo.utils.counters.clear()
        with compiling(), engine_for(model) as engine:
            assert compiled(model, folder, partial(warm_up, engine))
            counted = torch._dynamo.utils.counters["inductor"]
            found = (counted["fxgraph_cache_hit"], counted["fxgraph_cache_miss"])
    assert found == (2, 0), "one for a single token, one for more"


@pytest.mark.timeout(300)  # it compiles all there is, on a machine with other things to do
def test_nothing_is_compiled_outside_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.codecache._HEADER_DIR", str(tmp_path / "headers"))  # a folder in /tmp
    monkeypatch.setattr("torch._inductor.codecache._HEADER_LOCK_DIR", str(tmp_path / "headers" / "locks"))
    model = tiny_model("llama")
    with compiling(), engine_for(model) as engine:
        assert compiled(model, tmp_path / "compiled", partial(warm_up, engine))
    assert [path.name for path in tmp_path.iterdir()] == ["compiled"]


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
