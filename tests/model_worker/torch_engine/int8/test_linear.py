"""The int8 layer: close to the layer it replaces, exact row by row."""

import pytest
import torch
from torch import nn

from model_worker.torch_engine.int8.linear import Int8Linear, int8_product


def layer_and_input(dtype=torch.float32):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48).to(dtype)
    return linear, Int8Linear(linear.weight, linear.bias), torch.randn(3, 7, 64, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_are_those_of_the_original_within_the_rounding(dtype):
    linear, quantized, x = layer_and_input(dtype)
    result = quantized(x)
    assert result.dtype == dtype
    assert result.shape == (3, 7, 48)
    torch.testing.assert_close(result, linear(x), rtol=0, atol=0.05)


def test_the_dequantized_weights_are_within_half_a_step():
    linear, quantized, _ = layer_and_input()
    error = (quantized.dequantized_weight() - linear.weight).abs()
    assert (error <= quantized.weight_scale.unsqueeze(1) * 0.5001).all()


def test_a_row_does_not_depend_on_the_rows_beside_it():
    _, quantized, x = layer_and_input()
    rows = x.reshape(-1, 64)
    together = quantized(rows)
    assert torch.equal(together, torch.cat([quantized(row.unsqueeze(0)) for row in rows]))


def test_rows_of_zeros_fill_up_what_the_kernel_wants_and_change_nothing():
    torch.manual_seed(0)
    rows = torch.randint(-127, 128, (3, 64), dtype=torch.int8)
    weight = torch.randint(-127, 128, (48, 64), dtype=torch.int8)
    expected = rows.long() @ weight.long().t()
    assert torch.equal(int8_product(rows, weight, least_rows=17).long(), expected)
    assert torch.equal(int8_product(rows, weight, least_rows=1).long(), expected)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_row_that_is_not_a_number_stays_one_and_spoils_no_other(poison):
    _, quantized, x = layer_and_input()
    rows = x.reshape(-1, 64).clone()
    expected = quantized(rows)
    rows[4, 9] = poison
    result = quantized(rows)
    assert not torch.isfinite(result[4]).any()
    keep = [row for row in range(21) if row != 4]
    assert torch.equal(result[keep], expected[keep])


def test_zeros_give_the_bias():
    linear, quantized, _ = layer_and_input()
    assert torch.equal(quantized(torch.zeros(1, 64)), linear.bias.unsqueeze(0))


def test_layers_of_one_input_are_left_alone():
    assert not Int8Linear.supports(torch.zeros(48, 1), torch.device("cpu"))


def test_sizes_that_cublas_refuses_are_left_alone_on_a_gpu_only():
    odd = torch.zeros(48, 63)
    assert Int8Linear.supports(odd, torch.device("cpu"))
    assert not Int8Linear.supports(odd, torch.device("cuda"))
    assert Int8Linear.supports(torch.zeros(48, 64), torch.device("cuda"))
