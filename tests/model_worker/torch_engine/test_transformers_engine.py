"""The engine by itself: what a step computes, keeps, moves and refuses. `exactness/` holds it to `generate()`."""

import gc
import weakref

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from model_worker.engine import Draw, EngineSpec, OutOfMemory, RowFailure, Segment
from model_worker.sequence import Extent, SamplingParams
from model_worker.torch_engine.attention import dense
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.attention_probe import probe_layers
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.kv_storage import KvStorage, LayerShape
from model_worker.torch_engine.transformers_engine import TransformersEngine
from tests.model_worker.tiny_models import (
    EOS,
    FAMILIES,
    Row,
    drive,
    engine_for,
    prompt_of,
    reference,
    sequence_of,
    tiny_model,
)

SAMPLED = SamplingParams(temperature=0.9, top_k=40, top_p=0.95, seed=7)


@pytest.mark.parametrize("chunk", [1, 2, 5, 9, 30])
def test_logits_do_not_depend_on_the_chunking(chunk):
    model = tiny_model("gemma3")
    prompt = prompt_of(30, 1)
    expected = model(torch.tensor([prompt])).logits[0, -1]
    with engine_for(model) as engine:
        row = sequence_of(prompt, Extent(3, 30))
        for start in range(0, 30, chunk):
            logits = engine.last_logits([Segment(row, start, min(chunk, 30 - start), draws=False)])
    torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-12)


def test_a_seeded_row_draws_the_same_tokens_alone_and_among_others():
    model = tiny_model("llama")
    prompt = prompt_of(9, 1)
    with engine_for(model) as engine:
        [alone] = drive(engine, [Row(sequence_of(prompt, Extent(0, 64), SAMPLED), 20)])
        others = [
            Row(sequence_of(prompt_of(4 + index, index), Extent(64 * index, 64), temperature), 20, 5, index)
            for index, temperature in enumerate([SamplingParams(), SamplingParams(0.5, seed=7), SAMPLED], start=1)
        ]
        among = drive(engine, [*others, Row(sequence_of(prompt, Extent(512, 64), SAMPLED), 20, 2, 1)])
        [other_seed] = drive(engine, [Row(sequence_of(prompt, Extent(0, 64), SamplingParams(0.9, 40, 0.95, 8)), 20)])
    assert among[-1] == alone
    assert other_seed != alone


def test_a_row_continued_after_a_failover_draws_what_it_would_have_drawn():
    model = tiny_model("llama")
    prompt = prompt_of(9, 1)
    with engine_for(model) as engine:
        [whole] = drive(engine, [Row(sequence_of(prompt, Extent(0, 64), SAMPLED), 20)])
        resumed = sequence_of([*prompt, *whole[:8]], Extent(100, 64), SAMPLED, generated_prefix=8)
        resumed.prompt_tokens = len(prompt)
        assert drive(engine, [Row(resumed, 12)]) == [whole[8:]]


def test_a_row_that_is_not_a_number_fails_alone_and_its_cleared_extent_is_sound_again():
    model = tiny_model("llama")
    healthy = prompt_of(6, 2)
    expected = reference(model, healthy, 6)
    poison = min(set(range(97)) - {*healthy, *expected})
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = torch.nan
    with engine_for(model) as engine:
        rows = [Row(sequence_of([5, poison, 7], Extent(0, 32)), 6), Row(sequence_of(healthy, Extent(32, 32)), 6)]
        assert drive(engine, rows) == [[], expected]
        assert rows[0].failure is not None
        assert rows[0].failure.reason == "LOGITS_NOT_FINITE"
        engine.clear_kv(Extent(0, 32))
        assert drive(engine, [Row(sequence_of(healthy, Extent(0, 32)), 6)]) == [expected]


@pytest.mark.parametrize(("source", "target"), [(0, 64), (0, 4), (9, 2)])
def test_a_copied_extent_continues_like_its_source_even_where_the_two_overlap(source, target):
    model = tiny_model("qwen3")
    prompt = prompt_of(12, 3)
    expected = reference(model, prompt, 6)
    with engine_for(model) as engine:
        row = sequence_of(prompt, Extent(source, 32))
        assert engine.step([Segment(row, 0, 11, draws=False)]) == [None]
        engine.copy_kv(Extent(source, 32), Extent(target, 32), 11)
        row.extent, row.computed = Extent(target, 32), 11
        assert drive(engine, [Row(row, 6)]) == [expected]


def test_banned_ids_are_not_drawn_before_min_new_tokens():
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[EOS] = 0
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(97, dtype=torch.float64))
        model.lm_head.bias[EOS] = 1e4  # the model wants nothing but to end
    with engine_for(model) as engine:
        [greedy, sampled] = drive(
            engine,
            [
                Row(sequence_of([5, 6], Extent(0, 32), min_new_tokens=3), 5),
                Row(sequence_of([5, 6], Extent(32, 32), SAMPLED, min_new_tokens=3), 5),
            ],
        )
    assert EOS not in greedy[:3] + sampled[:3]
    assert greedy[3:] == sampled[3:] == [EOS, EOS]


def test_a_step_answers_every_segment_in_order():
    with engine_for(tiny_model("llama")) as engine:
        first, second = sequence_of(prompt_of(8, 1), Extent(0, 16)), sequence_of(prompt_of(3, 2), Extent(16, 16))
        outcomes = engine.step([Segment(first, 0, 4, draws=False), Segment(second, 0, 3, draws=True)])
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Draw)


def test_an_allocation_that_fails_is_out_of_memory():
    model = tiny_model("llama")
    spec = EngineSpec(97, 128, 2**45, 1, frozenset(), "cpu", "float64", "none")
    with pytest.raises(OutOfMemory):
        TransformersEngine(model, probe_layers(model), spec, ViewAttention())

    def too_much(*_args, **_kwargs):
        torch.empty(2**50)

    with engine_for(model) as engine:
        model.forward = too_much
        with pytest.raises(OutOfMemory):
            engine.step([Segment(sequence_of([5], Extent(0, 4)), 0, 1, draws=True)])


def test_another_error_of_the_model_is_not_taken_for_out_of_memory():
    model = tiny_model("llama")
    with engine_for(model) as engine, pytest.raises(IndexError):
        engine.step([Segment(sequence_of([10_000], Extent(0, 4)), 0, 1, draws=True)])


def test_closing_gives_the_model_its_attention_back_and_frees_the_storage():
    model = tiny_model("llama")
    expected = reference(model, [5, 6, 7], 4)
    with engine_for(model) as engine:
        storage = [weakref.ref(tensor) for layer in engine._storage.layers for tensor in (layer.keys, layer.values)]
        layer = engine._storage.layers[0]
    assert reference(model, [5, 6, 7], 4) == expected
    weights = weakref.ref(model)
    del model
    gc.collect()
    assert [tensor() for tensor in storage] == [None] * 4, "though the engine is still held, and a layer of it"
    assert weights() is None
    assert (engine.spec.device, layer) == ("cpu", layer)


@pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 0), (0, 300), (300, 0), (0, 256), (7, 263), (900, 0)])
def test_storage_that_moves_over_itself_needs_no_more_than_small_copies(monkeypatch, source, target):
    storage = KvStorage([LayerShape(2, 3, 4, torch.float32, torch.device("cpu"))], 1600)
    for stored in storage._tensors():
        stored.copy_(torch.rand(stored.shape))
    before = [stored.clone() for stored in storage._tensors()]
    copies = []
    monkeypatch.setattr(
        torch.Tensor, "clone", lambda tensor, plain=torch.Tensor.clone: copies.append(tensor.shape[0]) or plain(tensor)
    )
    storage.copy(Extent(source, 700), Extent(target, 700), 700)
    assert max(copies, default=0) <= 256
    for stored, old in zip(storage._tensors(), before, strict=True):
        assert torch.equal(stored[target : target + 700], old[source : source + 700])


def test_a_copy_without_memory_for_it_is_out_of_memory(monkeypatch):
    def too_much(*_args, **_kwargs):
        torch.empty(2**50)

    with engine_for(tiny_model("llama")) as engine:
        monkeypatch.setattr(engine._storage, "copy", too_much)
        with pytest.raises(OutOfMemory):
            engine.copy_kv(Extent(0, 4), Extent(4, 4), 2)


def test_no_option_that_would_cost_a_gpu_its_fused_kernels_is_asked_for(monkeypatch):
    calls = []

    def watched(query, keys, values, **options):
        calls.append((query.shape[1] == keys.shape[1], set(options)))
        return scaled_dot_product_attention(query, keys, values, **options)

    monkeypatch.setattr(dense, "scaled_dot_product_attention", watched)
    model = tiny_model("llama")
    expected = reference(model, prompt_of(9, 1), 4)
    with engine_for(model) as engine:
        assert drive(engine, [Row(sequence_of(prompt_of(9, 1), Extent(0, 32)), 4, 4)]) == [expected]
    assert all(same_heads and "enable_gqa" not in options for same_heads, options in calls)
    assert len(calls) > 8


def test_a_failed_row_is_an_outcome_not_an_exception():
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.inf)
    with engine_for(model) as engine:
        [outcome] = engine.step([Segment(sequence_of([5], Extent(0, 4), SAMPLED), 0, 1, draws=True)])
    assert isinstance(outcome, RowFailure)


@pytest.mark.parametrize("softcap", [None, 5.0])  # the fused kernel, and attention spelled out
def test_an_int8_row_has_the_same_bits_alone_in_any_batch_and_any_chunking(softcap):
    torch.manual_seed(0)
    config = FAMILIES["gemma2"]()
    config.update({"hidden_size": 128, "intermediate_size": 128, "head_dim": 64, "attn_logit_softcapping": softcap})
    model = AutoModelForCausalLM.from_config(config).eval()
    quantize_to_int8(model, torch.device("cpu"))
    prompt = prompt_of(120, 1)

    def bits(engine: TransformersEngine, chunk: int, neighbours: int) -> torch.Tensor:
        row = sequence_of(prompt, Extent(0, 120))
        others = [sequence_of(prompt_of(120, 2 + i), Extent(120 * (i + 1), 120)) for i in range(neighbours)]
        for start in range(0, 120, chunk):
            engine.last_logits([Segment(s, start, chunk, draws=False) for s in [*others, row]])
        return engine._storage.layers[1].keys[:120].clone()

    with engine_for(model, quantization="int8") as engine:
        alone = bits(engine, chunk=120, neighbours=0)
        for chunk, neighbours in [(1, 0), (5, 0), (120, 3), (8, 7)]:
            assert torch.equal(bits(engine, chunk, neighbours), alone)
    with engine_for(model) as engine:  # the same without what int8 does about it, to see that the test would notice
        assert not torch.equal(bits(engine, 5, 0), bits(engine, 120, 0))
