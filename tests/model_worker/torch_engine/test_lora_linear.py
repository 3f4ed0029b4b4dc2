"""One layer with adapters, around every kind of linear layer that a model may have."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers.pytorch_utils import Conv1D

from model_worker.engine import Segment
from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.sequence import Extent
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.lora_linear import LoraPair
from model_worker.torch_engine.lora_switch import LoraSwitch, by_adapter
from tests.model_worker.tiny_models import sequence_of

WIDTH_IN, WIDTH_OUT = 64, 128


def plain() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH_IN, WIDTH_OUT)


def conv1d() -> nn.Module:
    torch.manual_seed(0)
    return Conv1D(WIDTH_OUT, WIDTH_IN)


def int8() -> nn.Module:
    return Int8Linear(plain().weight, plain().bias)


def bnb_nf4() -> nn.Module:
    layer = Linear4bit(WIDTH_IN, WIDTH_OUT, quant_type="nf4", compute_dtype=torch.float32)
    layer.load_state_dict(plain().state_dict())
    return layer.to("cpu")


def bnb_int8() -> nn.Module:
    layer = Linear8bitLt(WIDTH_IN, WIDTH_OUT, has_fp16_weights=False, threshold=0.0)
    layer.load_state_dict(plain().state_dict())
    return layer.to("cpu")


def segment(length: int, adapter: str) -> Segment:
    return Segment(sequence_of([5] * length, Extent(0, length), adapter=adapter), 0, length, draws=True)


def pair_of(rank: int, scaling: float) -> LoraPair:
    return LoraPair(torch.randn(WIDTH_IN, rank), torch.randn(rank, WIDTH_OUT), scaling)


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("make", [plain, conv1d, int8, bnb_nf4, bnb_int8])
def test_each_row_gets_what_its_own_adapter_adds_to_the_layer(make):
    base = make()
    switch = LoraSwitch()
    layer = switch.layer(base, is_head=False)
    pairs = {"a": pair_of(4, 2.0), "b": pair_of(16, 0.25)}
    for name, pair in pairs.items():
        layer.add_adapter(name, pair)
    owners = ["", "a", "", "b", "elsewhere"]  # the last has nothing for this layer
    segments = [segment(length, owner) for length, owner in enumerate(owners, start=1)]
    x = torch.randn(1, sum(part.length for part in segments), WIDTH_IN)
    with torch.inference_mode():
        alone = base(x)
        with switch.during(segments, kept=segments):
            mixed = layer(x)
        assert torch.equal(layer(x), alone), "outside a step every row is the base model's"
    rows = [owner for part, owner in zip(segments, owners, strict=True) for _ in range(part.length)]
    for index, owner in enumerate(rows):
        if owner in pairs:
            added = pairs[owner].scaling * (x[0, index] @ pairs[owner].a) @ pairs[owner].b
            torch.testing.assert_close(mixed[0, index], alone[0, index] + added, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(mixed[0, index], alone[0, index])


def test_the_output_head_gets_one_row_for_each_kept_token():
    switch = LoraSwitch()
    segments = [segment(3, "a"), segment(2, ""), segment(4, "b")]
    with switch.during(segments, kept=[segments[2], segments[0], segments[0]]):
        assert switch._tokens.runs == [("a", 0, 3), ("b", 5, 4)]
        assert switch._drawn.runs == [("b", 0, 1), ("a", 1, 2)]
    assert switch._tokens.runs == switch._drawn.runs == ()


def test_a_step_that_fails_leaves_no_rows_behind():
    switch = LoraSwitch()
    with pytest.raises(KeyError), switch.during([segment(1, "a")], kept=[]):
        raise KeyError
    assert switch._tokens.runs == ()


def test_a_layer_that_gets_other_rows_than_the_steps_says_so():
    switch = LoraSwitch()
    layer = switch.layer(plain(), is_head=False)
    segments = [segment(3, "a")]
    with switch.during(segments, kept=segments), pytest.raises(UnsupportedModelError, match="2 rows in a step of 3"):
        layer(torch.randn(2, WIDTH_IN))


def test_segments_of_one_adapter_come_together_and_otherwise_keep_their_order():
    assert by_adapter([segment(1, adapter) for adapter in ["b", "", "a", "b", "", "a"]]) == [1, 4, 2, 5, 0, 3]
    assert by_adapter([segment(1, "")] * 3) == [0, 1, 2]
