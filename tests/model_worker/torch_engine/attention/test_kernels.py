"""Every kernel that a CPU can run, against the formula of attention, query by query."""

from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_worker.engine import Segment
from model_worker.sequence import Extent, RowParams, Sequence
from model_worker.torch_engine.attention.choice import attention_kernel
from model_worker.torch_engine.attention.kernel import Heads, Options
from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.attention.padded import PaddedAttention
from model_worker.torch_engine.attention.varlen import VarlenAttention
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.kv_storage import LayerShape, LayerStorage
from model_worker.torch_engine.step_layout import StepLayout

CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(params=["views", "token by token", "padded", "native"])
def kernel(request, native):
    match request.param:
        case "views":
            return ViewAttention()
        case "token by token":
            return ViewAttention(token_by_token=True)
        case "padded":
            return PaddedAttention()
    return NativeAttention(native)


class Layer:
    """One layer's storage, filled with noise, and a step of segments in it: `(start, length)` each."""

    def __init__(self, segments, dtype=torch.float64, *, kv_heads=2, group=3, size=20, value_size=12, seed=0):
        self.random = torch.Generator().manual_seed(seed)
        self.dtype, self.kv_heads, self.group, self.size, self.value_size = dtype, kv_heads, group, size, value_size
        self.store = LayerStorage(
            LayerShape(kv_heads, size, value_size, dtype, CPU), 3 + sum(sum(s) + 2 for s in segments)
        )
        self.store.keys.copy_(self.noise(self.store.keys.shape))
        self.store.values.copy_(self.noise(self.store.values.shape))
        origins, origin = [], 3
        for start, length in reversed(segments):  # not in the order of the step
            origins.insert(0, origin)
            origin += start + length + 2
        self.segments = [
            Segment(
                Sequence(RowParams(), array("i", range(start + length)), 1, extent=Extent(at, start + length)),
                start,
                length,
                draws=True,
            )
            for (start, length), at in zip(segments, origins, strict=True)
        ]
        tokens = sum(length for _, length in segments)
        # Laid out as models do it: token by token, seen by head.
        self.heads = Heads(
            self.noise((tokens, kv_heads * group, size)).transpose(0, 1),
            self.noise((tokens, kv_heads, size)).transpose(0, 1),
            self.noise((tokens, kv_heads, value_size)).transpose(0, 1),
        )

    def noise(self, shape):
        return torch.randn(shape, generator=self.random, dtype=torch.float64).to(self.dtype)

    def attend(self, kernel, options):
        with torch.inference_mode():
            return kernel(self.heads, self.store, StepLayout(self.segments, CPU), options)

    def by_the_formula(self, options):
        """softmax(scale q·k) v of each query over the tokens before it and itself; writes the step's K/V first."""
        row, out = 0, []
        for segment in self.segments:
            base = segment.sequence.extent.start
            for position in range(segment.start, segment.start + segment.length):
                self.store.keys[base + position] = self.heads.key[:, row]
                self.store.values[base + position] = self.heads.value[:, row]
                first = 0 if options.window is None else max(0, position + 1 - options.window)
                seen = slice(base + first, base + position + 1)
                keys = self.store.keys[seen].repeat_interleave(self.group, dim=1)
                values = self.store.values[seen].repeat_interleave(self.group, dim=1)
                scores = torch.einsum("hd,khd->hk", self.heads.query[:, row], keys)
                scores = scores * (self.size**-0.5 if options.scaling is None else options.scaling)
                if options.softcap is not None:
                    scores = torch.tanh(scores / options.softcap) * options.softcap
                if options.sinks is not None:
                    scores = torch.cat((scores, options.sinks[:, None]), dim=1)
                weights = torch.softmax(scores, dim=1)[:, : len(keys)]
                out.append(torch.einsum("hk,khd->hd", weights, values))
                row += 1
        return torch.stack(out)


SHAPES = {
    "decode": [(5, 1), (0, 1), (40, 1)],
    "prompts": [(0, 7), (0, 1), (0, 30)],
    "chunks beside single tokens": [(3, 5), (17, 1), (16, 16), (33, 1)],
}
OPTIONS = {
    "plain": Options(None, None, None, None),
    "scaled": Options(0.3, None, None, None),
    "window": Options(None, 6, None, None),
    "softcap": Options(None, None, 1.5, None),
    "sinks": Options(None, None, None, torch.linspace(-1, 2, 6, dtype=torch.float64)),
    "all": Options(0.5, 6, 2.0, torch.linspace(-1, 2, 6, dtype=torch.float64)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("segments", SHAPES.values(), ids=SHAPES)
def test_every_kernel_computes_attention(kernel, segments, options, dtype):
    if options.sinks is not None:
        options = options._replace(sinks=options.sinks.to(dtype))
    expected = Layer(segments, dtype).by_the_formula(options)
    torch.testing.assert_close(Layer(segments, dtype).attend(kernel, options), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize(
    "sizes",
    [
        {"kv_heads": 1, "group": 1, "size": 64, "value_size": 64},
        {"kv_heads": 3, "group": 3, "size": 64, "value_size": 64},
        {"kv_heads": 1, "group": 8, "size": 128, "value_size": 128},
        {"kv_heads": 2, "group": 2, "size": 7, "value_size": 81},
    ],
    ids=str,
)
def test_every_kernel_takes_heads_of_any_size(kernel, sizes):
    segments, options = SHAPES["chunks beside single tokens"], OPTIONS["plain"]
    expected = Layer(segments, **sizes).by_the_formula(options)
    torch.testing.assert_close(Layer(segments, **sizes).attend(kernel, options), expected, atol=1e-12, rtol=0)


def test_every_kernel_keeps_the_keys_and_values_of_the_step_and_nothing_else(kernel):
    segments, options = SHAPES["chunks beside single tokens"], OPTIONS["plain"]
    expected, layer = Layer(segments), Layer(segments)
    expected.by_the_formula(options)
    layer.attend(kernel, options)
    assert torch.equal(layer.store.keys, expected.store.keys)
    assert torch.equal(layer.store.values, expected.store.values)


def test_what_is_not_a_number_stays_in_its_row(kernel):
    layer = Layer(SHAPES["decode"], torch.float32)
    layer.heads.query[:, 1] = torch.nan
    out = layer.attend(kernel, OPTIONS["plain"])
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


def test_a_score_below_every_number_weighs_nothing(kernel):
    layer = Layer([(5, 1)], torch.float32)
    layer.heads.query.abs_()
    layer.store.keys[4] = -torch.finfo(torch.float32).max
    seen = Layer([(5, 1)], torch.float32)
    seen.heads.query.abs_()
    seen.store.keys[4] = -100.0
    torch.testing.assert_close(layer.attend(kernel, OPTIONS["plain"]), seen.attend(kernel, OPTIONS["plain"]))


@pytest.mark.parametrize("name", Heads._fields)
def test_the_compiled_kernel_takes_no_dtype_for_another(native, name):
    layer = Layer(SHAPES["decode"], torch.float32)
    layer.heads = layer.heads._replace(**{name: getattr(layer.heads, name).bfloat16()})
    with pytest.raises(AssertionError):
        layer.attend(NativeAttention(native), OPTIONS["plain"])


@settings(max_examples=25)
@given(
    history=st.integers(0, 70),
    length=st.integers(1, 40),
    cut=st.integers(1, 39),
    others=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=3),
    option=st.sampled_from(sorted(OPTIONS)),
    threads=st.sampled_from([1, 2]),
)
def test_the_compiled_kernel_gives_a_query_the_same_bits_in_any_company(  # noqa: PLR0917 - what hypothesis draws
    native, history, length, cut, others, option, threads
):
    kernel, options = NativeAttention(native), OPTIONS[option]
    alone = Layer([(history, length)])
    expected = alone.attend(kernel, options)
    mixed = Layer([*others, (history, length)])
    at, origin = alone.segments[0].sequence.extent.start, mixed.segments[-1].sequence.extent.start
    for name in ("keys", "values"):
        stored, source = getattr(mixed.store, name), getattr(alone.store, name)
        stored[origin : origin + history] = source[at : at + history]
    for mine, its in zip(mixed.heads, alone.heads, strict=True):
        mine[:, -length:] = its
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(mixed.attend(kernel, options)[-length:], expected)
        if cut < length:  # in two chunks
            whole = mixed.segments[-1]
            parts = []
            for start, end in ((0, cut), (cut, length)):
                mixed.segments = [Segment(whole.sequence, history + start, end - start, draws=False)]
                mixed.heads = Heads(*(tensor[:, start:end] for tensor in alone.heads))
                parts.append(mixed.attend(kernel, options))
            assert torch.equal(torch.cat(parts), expected)
    finally:
        torch.set_num_threads(before)


def test_the_kernel_is_chosen_by_what_the_layers_store_and_whether_our_code_can_be_had(native, monkeypatch):
    def chosen(dtype, device, library=None, **sizes):
        shape = LayerShape(**{"kv_heads": 2, "key_size": 64, "value_size": 64} | sizes, dtype=dtype, device=device)
        return type(attention_kernel([shape], "none", library))

    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert chosen(torch.float32, CPU, native) is NativeAttention
    assert chosen(torch.bfloat16, CPU, native) is ViewAttention
    assert chosen(torch.float32, CPU) is ViewAttention
    assert chosen(torch.float32, cuda) is PaddedAttention
    assert chosen(torch.bfloat16, cuda) is VarlenAttention
    assert chosen(torch.bfloat16, cuda, key_size=192, value_size=128) is PaddedAttention
    assert chosen(torch.bfloat16, cuda, key_size=20, value_size=20) is PaddedAttention
    assert chosen(torch.bfloat16, cuda, key_size=512, value_size=512) is PaddedAttention
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert chosen(torch.bfloat16, cuda) is PaddedAttention
