"""Blockwise FP8: right numbers, the same bits as dequantised weights, odd sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import BackendUnavailable
from hyla.ops import quant, rows
from hyla.ops.quant import FP8Tensor, FP8Weight, cost
from hyla.ops.quant.reference import dequantise_reference

DTYPES = (torch.float32, torch.bfloat16)
HALF_STEP = 2.0**-4
"""Largest relative rounding of an e4m3 code."""
LEAST = 2.0**-10 / 448.0
"""Half the least code, over the largest: what rounds to zero, relative to a block's largest weight."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fp8(out_dim, in_dim, dtype, seed=0):
    return FP8Tensor(*quant.quantise(draw(out_dim, in_dim, seed=seed)), dtype)


@pytest.mark.parametrize("shape", [(130, 300), (1, 129), (128, 256), (5, 7)])
def test_dequantising_multiplies_every_code_by_the_scale_of_its_block(shape):
    codes, scale = quant.quantise(draw(*shape) * torch.logspace(-3, 3, shape[1]))
    assert tuple(scale.shape) == quant.num_blocks(shape)
    expected = dequantise_reference(codes, scale)
    assert torch.equal(quant.dequantise(codes, scale, torch.float32), expected.float())
    assert torch.equal(quant.dequantise(codes, scale, torch.bfloat16), expected.float().bfloat16())


@pytest.mark.parametrize("power_of_two", [False, True])
def test_quantising_is_within_half_a_step_and_reaches_the_largest_code(power_of_two):
    weight = draw(200, 150)
    codes, scale = quant.quantise(weight, power_of_two=power_of_two)
    error = (quant.dequantise(codes, scale, torch.float32) - weight).abs()
    assert bool((error <= weight.abs() * HALF_STEP + 2 * LEAST * weight.abs().max()).all())
    if power_of_two:
        assert torch.equal(torch.exp2(torch.log2(scale).round()), scale)
    else:
        assert codes.float().abs().max() == 448.0


@settings(max_examples=30, deadline=None)
@given(out_dim=st.integers(1, 270), in_dim=st.integers(1, 270), seed=st.integers(0, 99), wide=st.booleans())
def test_the_codes_of_a_dequantised_weight_are_recovered(out_dim, in_dim, seed, wide):
    codes, scale = quant.quantise(draw(out_dim, in_dim, seed=seed))
    weight = quant.dequantise(codes, scale, torch.float32 if wide else torch.bfloat16)
    assert torch.equal(quant.quantise_with(weight, scale).view(torch.uint8), codes.view(torch.uint8))


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 299), count=st.integers(1, 300))
def test_any_rows_can_be_dequantised_alone(first, count):
    tensor = fp8(300, 140, torch.bfloat16)
    last = min(first + count, 300)
    assert torch.equal(tensor.rows(first, last), tensor.dense()[first:last])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [0, 1, 7, 65])
def test_a_product_has_the_bits_of_the_dequantised_weight(dtype, num_rows):
    parts = (fp8(200, 136, dtype), draw(30, 136, seed=1).to(dtype), fp8(129, 136, dtype, seed=2))
    weight = FP8Weight(parts, dtype)
    plain = torch.cat([part.dense() if isinstance(part, FP8Tensor) else part for part in parts])
    x = draw(num_rows, 136, seed=3).to(dtype)
    assert weight.shape == (359, 136)
    assert torch.equal(quant.linear(x, weight), rows.linear(x, plain))


def test_a_large_weight_is_dequantised_a_block_of_outputs_at_a_time(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 64 * 140)
    weight, asked = FP8Weight((fp8(300, 140, torch.float32),), torch.float32), []
    dense = FP8Weight.dense

    def watched(self, first, last):
        asked.append(last - first)
        return dense(self, first, last)

    monkeypatch.setattr(FP8Weight, "dense", watched)
    x = draw(9, 140)
    assert torch.equal(quant.linear(x, weight), rows.linear(x, weight.parts[0].dense()))
    assert asked == [64, 64, 64, 64, 44]
    assert max(asked) * 140 * 4 <= cost.temporary_bytes(300, 140, 4, block_elements=64 * 140)


def test_the_gradient_to_the_rows_is_that_of_the_dequantised_weight():
    weight = FP8Weight((fp8(150, 70, torch.float32), fp8(20, 70, torch.float32)), torch.float32)
    plain = torch.cat([part.dense() for part in weight.parts])
    grads = []
    for stored in (weight, plain):
        x = draw(5, 70, seed=4).requires_grad_()
        y = quant.linear(x, stored)
        (y * draw(5, 170, seed=5)).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(quant.linear(x, weight), y)


def test_rows_of_another_dtype_are_refused():
    weight = FP8Weight((fp8(8, 8, torch.bfloat16),), torch.bfloat16)
    with pytest.raises(BackendUnavailable, match=r"float32 cannot meet .*bfloat16"):
        quant.linear(draw(2, 8), weight)


def test_bytes_are_those_of_the_tensors():
    tensor = fp8(300, 140, torch.bfloat16)
    assert tensor.nbytes == cost.weight_bytes(300, 140) == 300 * 140 + 4 * 3 * 2
