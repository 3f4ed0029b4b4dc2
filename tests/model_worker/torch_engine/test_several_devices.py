"""A model whose layers are on several devices. `meta`, which has shapes but no numbers, stands in for a second one."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from model_worker.engine import Segment
from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.sequence import Extent
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.quantizer import quantize_to_int8
from model_worker.torch_engine.kv_storage import LayerStorage
from model_worker.torch_engine.step_layout import StepLayout
from model_worker.torch_engine.weight_check import check_placement
from tests.model_worker.tiny_models import engine_for, prompt_of, sequence_of, tiny_model

CPU, META = torch.device("cpu"), torch.device("meta")


def spread_model(family):
    """As accelerate leaves it: each part on its device, with a hook that moves its input there."""
    model = tiny_model(family, torch.float32)
    for module in (model.model.layers[1], model.model.norm, model.lm_head):
        module.to(META)
        add_hook_to_module(module, AlignDevicesHook(execution_device="meta"))
    return model


def chunks(*lengths):
    rows = [sequence_of(prompt_of(length, length), Extent(64 * index, 64)) for index, length in enumerate(lengths)]
    return [Segment(row, 0, len(row.ids), draws=True) for row in rows]


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # fused attention; spelled out, windowed and with a soft cap
def test_every_layer_gets_what_it_needs_on_its_own_device(family, monkeypatch):
    written, masked = [], []
    write, mask = LayerStorage.write, StepLayout.mask
    monkeypatch.setattr(
        LayerStorage, "write", lambda self, slots, *kv: written.append(slots.device) or write(self, slots, *kv)
    )
    monkeypatch.setattr(
        StepLayout, "mask", lambda self, *args: (made := mask(self, *args), masked.append(made.device))[0]
    )
    with engine_for(spread_model(family)) as engine:
        first = chunks(20, 9)
        engine.last_logits(first)
        for segment in first:
            segment.sequence.computed = segment.length
            segment.sequence.ids.extend([5, 6, 7])
        written.clear()
        masked.clear()
        logits = engine.last_logits([Segment(segment.sequence, segment.length, 3, draws=True) for segment in first])
    assert (logits.device, logits.shape) == (META, (2, 97))
    assert written == [CPU, META]
    assert masked == [CPU, CPU, META, META]


def test_the_layers_of_the_first_device_compute_what_they_compute_alone():
    stored = []
    for model in (tiny_model("llama", torch.float32), spread_model("llama")):
        with engine_for(model) as engine:
            engine.last_logits(chunks(20, 9))
            stored.append(engine._storage.layers[0].keys.clone())
    assert torch.equal(*stored)


def test_a_part_that_found_no_room_on_the_devices_is_refused():
    with pytest.raises(UnavailableOptionError, match="does not fit on the cpu devices"):
        check_placement(spread_model("llama"), CPU)


def test_an_int8_head_stays_on_the_device_of_the_head_it_replaces():
    model = tiny_model("opt", torch.float32)
    add_hook_to_module(model.lm_head, AlignDevicesHook(execution_device="cpu"))
    quantize_to_int8(model, CPU)
    assert isinstance(model.lm_head, Int8Linear)
    assert model.lm_head._hf_hook.execution_device == "cpu"
