"""The int8 layer in our C++: torch's bits, for any sizes, any rows, any threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.torch_engine.int8 import packed_linear
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.native import native_products
from model_worker.torch_engine.int8.packed_linear import PackedLinear, pack_linears


@pytest.fixture(scope="module")
def products(native):
    found = native_products(native)
    assert found is not None, "these tests need a processor with AVX2"
    return found


def layer(out_features, in_features, *, bias=True, seed=0) -> Int8Linear:
    torch.manual_seed(seed)
    linear = nn.Linear(in_features, out_features, bias=bias)
    return Int8Linear(linear.weight, linear.bias)


@settings(max_examples=60, deadline=None)
@given(
    out_features=st.integers(1, 200),
    in_features=st.integers(2, 300),
    rows=st.integers(1, 40) | st.sampled_from([64, 100]),
    bias=st.booleans(),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**16),
)
def test_it_has_the_bits_of_torch(  # noqa: PLR0917 - what hypothesis draws
    native, products, out_features, in_features, rows, bias, threads, seed
):
    original = layer(out_features, in_features, bias=bias, seed=seed)
    x = torch.randn(rows, in_features) * 10 ** torch.empty(rows, 1).uniform_(-6, 6)
    with native.helpers_awake(threads):
        assert torch.equal(PackedLinear(original, products)(x), original(x))


def whole_numbers(weight, bias=None) -> Int8Linear:
    """A layer with `weight`, integers [out, in] from -127 to 127, as it stands: it has the scale 1."""
    quantized = Int8Linear(weight.float(), bias)
    quantized.weight.copy_(weight)
    quantized.weight_scale.fill_(1.0)
    return quantized


@settings(max_examples=60, deadline=None)
@given(data=st.data(), in_features=st.integers(2, 67), rows=st.integers(1, 13))
def test_products_as_large_as_can_be_are_exact(products, data, in_features, rows):
    """Which a sum of two products in 16 bits, as one instruction of AVX2 has it, is not."""
    extremes = st.sampled_from([-127, -126, -65, -64, -1, 0, 1, 63, 64, 65, 126, 127])
    numbers = data.draw(st.lists(extremes, min_size=(rows + 17) * in_features, max_size=(rows + 17) * in_features))
    both = torch.tensor(numbers).view(rows + 17, in_features)
    x, weight = both[:rows].clone(), both[rows:].to(torch.int8)
    x[:, 0] = 127  # so that each row's scale is 1
    packed = PackedLinear(whole_numbers(weight), products)
    assert torch.equal(packed(x.float()).long(), x @ weight.long().t())


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_and_weights_of_nothing_but_the_largest_numbers_are_exact(products, sign):
    packed = PackedLinear(whole_numbers(torch.full((33, 4097), 127, dtype=torch.int8)), products)
    assert torch.equal(packed(torch.full((7, 4097), 127.0 * sign)), torch.full((7, 33), 127.0 * 127 * 4097 * sign))


def test_layers_of_one_call_give_what_each_gives_by_itself(products):
    originals = [layer(70, 52), layer(16, 52, bias=False, seed=1), layer(1, 52, seed=2)]
    packed, x = [PackedLinear(original, products) for original in originals], torch.randn(9, 52)
    together = products.call(
        x, [each.packed for each in packed], [each.weight_scale for each in packed], [each.bias for each in packed]
    )
    for out, original in zip(together, originals, strict=True):
        assert torch.equal(out, original(x))


def test_many_rows_are_shared_among_threads_and_stay_what_they_are(native, products):
    original = layer(700, 600)
    packed, x = PackedLinear(original, products), torch.randn(1, 333, 600)
    expected = original(x)
    for threads in (1, 2, 4):
        with native.helpers_awake(threads):
            assert torch.equal(packed(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_results_have_the_dtype_of_the_input(products, dtype):
    original = layer(48, 64)
    x = torch.randn(2, 3, 64).to(dtype)
    result = PackedLinear(original, products)(x)
    assert result.dtype == dtype
    assert torch.equal(result, original(x))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_a_number_stays_one_and_spoils_no_other(products, poison):
    packed, rows = PackedLinear(layer(48, 64), products), torch.randn(15, 64)
    expected = packed(rows)
    rows[4, 9] = poison
    result = packed(rows)
    assert result[4].isnan().all()
    keep = [row for row in range(15) if row != 4]
    assert torch.equal(result[keep], expected[keep])


def test_rows_of_zeros_and_no_rows_are_taken(products):
    original = layer(48, 64)
    packed = PackedLinear(original, products)
    assert torch.equal(packed(torch.zeros(2, 64)), original.bias.expand(2, -1))
    assert packed(torch.zeros(0, 64)).shape == (0, 48)


def test_an_input_that_is_not_dense_is_read_as_it_is(products):
    original = layer(48, 64)
    x = torch.randn(64, 5).t()
    assert torch.equal(PackedLinear(original, products)(x), original(x))


def test_all_int8_layers_of_a_model_are_packed(native, products):
    model = nn.Sequential(layer(48, 64), nn.ReLU(), nn.Sequential(layer(16, 48)))
    x = torch.randn(3, 64)
    expected = model(x)
    pack_linears(model, native)
    assert not [module for module in model.modules() if isinstance(module, Int8Linear)]
    assert torch.equal(model(x), expected)


def test_a_layer_that_computes_something_else_is_refused(native, products, monkeypatch):
    pack = products.pack
    monkeypatch.setattr(products, "pack", lambda weight: torch.zeros_like(pack(weight)))
    with pytest.raises(UnsupportedModelError, match="0: our C"):
        pack_linears(nn.Sequential(layer(48, 64)), native)


def test_a_processor_without_the_instructions_leaves_the_layers_to_torch(native, monkeypatch):
    monkeypatch.setattr(packed_linear, "native_products", lambda _: None)
    model = nn.Sequential(layer(48, 64))
    pack_linears(model, native)
    assert isinstance(model[0], Int8Linear)
