"""Blockwise FP8: right numbers, the same bits as dequantised weights, odd sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import BackendUnavailable
from hyla.ops import backends, weights
from hyla.ops.exact import rows
from hyla.ops.native import products
from hyla.ops.weights import FP8Tensor, FP8Weights, Plain, Shard, cost
from hyla.ops.weights import fp8 as fp8_weights
from hyla.ops.weights.reference import dequantise_reference

pytestmark = pytest.mark.usefixtures("each_backend")

DTYPES = (torch.float32, torch.bfloat16)
HALF_STEP = 2.0**-4
"""Largest relative rounding of an e4m3 code."""
LEAST = 2.0**-10 / 448.0
"""Half the least code, over the largest: what rounds to zero, relative to a block's largest weight."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fp8(out_dim, in_dim, dtype, seed=0):
    return FP8Tensor(*weights.quantise(draw(out_dim, in_dim, seed=seed)), dtype)


@pytest.mark.parametrize("shape", [(130, 300), (1, 129), (128, 256), (5, 7)])
def test_dequantising_multiplies_every_code_by_the_scale_of_its_block(shape):
    codes, scale = weights.quantise(draw(*shape) * torch.logspace(-3, 3, shape[1]))
    assert tuple(scale.shape) == weights.num_blocks(shape)
    expected = dequantise_reference(codes, scale)
    assert torch.equal(weights.dequantise(codes, scale, torch.float32), expected.float())
    assert torch.equal(weights.dequantise(codes, scale, torch.bfloat16), expected.float().bfloat16())


@pytest.mark.parametrize("power_of_two", [False, True])
def test_quantising_is_within_half_a_step_and_reaches_the_largest_code(power_of_two):
    weight = draw(200, 150)
    codes, scale = weights.quantise(weight, power_of_two=power_of_two)
    error = (weights.dequantise(codes, scale, torch.float32) - weight).abs()
    assert bool((error <= weight.abs() * HALF_STEP + 2 * LEAST * weight.abs().max()).all())
    if power_of_two:
        assert torch.equal(torch.exp2(torch.log2(scale).round()), scale)
    else:
        assert codes.float().abs().max() == 448.0


@settings(max_examples=30)
@given(out_dim=st.integers(1, 270), in_dim=st.integers(1, 270), seed=st.integers(0, 99), wide=st.booleans())
def test_the_codes_of_a_dequantised_weight_are_recovered(out_dim, in_dim, seed, wide):
    codes, scale = weights.quantise(draw(out_dim, in_dim, seed=seed))
    weight = weights.dequantise(codes, scale, torch.float32 if wide else torch.bfloat16)
    assert torch.equal(weights.quantise_with(weight, scale).view(torch.uint8), codes.view(torch.uint8))


@settings(max_examples=30)
@given(first=st.integers(0, 299), count=st.integers(1, 300))
def test_any_rows_can_be_dequantised_alone(first, count):
    tensor = fp8(300, 140, torch.bfloat16)
    last = min(first + count, 300)
    assert torch.equal(tensor.rows(first, last), tensor.dense()[first:last])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [0, 1, 7, 65])
def test_a_product_has_the_bits_of_the_dequantised_weight(dtype, num_rows):
    parts = (fp8(200, 136, dtype), draw(30, 136, seed=1).to(dtype), fp8(129, 136, dtype, seed=2))
    weight = FP8Weights(parts, dtype)
    plain = torch.cat([part.dense() if isinstance(part, FP8Tensor) else part for part in parts])
    x = draw(num_rows, 136, seed=3).to(dtype)
    assert weight.shape == (359, 136)
    assert torch.equal(weight.product(x), rows.linear(x, plain))


def test_a_large_weight_is_dequantised_a_block_of_outputs_at_a_time(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 64 * 140)
    monkeypatch.setattr(fp8_weights, "_has_kernel", lambda *operands: False)  # which dequantises nothing into memory
    weight, asked = FP8Weights((fp8(300, 140, torch.float32),), torch.float32), []
    dense = FP8Weights.dense

    def watched(self, first, last):
        asked.append(last - first)
        return dense(self, first, last)

    monkeypatch.setattr(FP8Weights, "dense", watched)
    x = draw(9, 140)
    assert torch.equal(weight.product(x), rows.linear(x, weight.parts[0].dense()))
    assert asked == [64, 64, 64, 64, 44]
    assert max(asked) * 140 * 4 <= cost.temporary_bytes(300, 140, 4, block_elements=64 * 140)


def test_the_gradient_to_the_rows_is_that_of_the_dequantised_weight():
    weight = FP8Weights((fp8(150, 70, torch.float32), fp8(20, 70, torch.float32)), torch.float32)
    plain = torch.cat([part.dense() for part in weight.parts])
    grads = []
    for stored in (weight, Plain((plain,))):
        x = draw(5, 70, seed=4).requires_grad_()
        y = stored.product(x)
        (y * draw(5, 170, seed=5)).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(weight.product(x), y)


def test_rows_of_another_dtype_are_refused():
    weight = FP8Weights((fp8(8, 8, torch.bfloat16),), torch.bfloat16)
    with pytest.raises(BackendUnavailable, match=r"float32 cannot meet .*bfloat16"):
        weight.product(draw(2, 8))


def test_bytes_are_those_of_the_tensors():
    tensor = fp8(300, 140, torch.bfloat16)
    assert tensor.nbytes == cost.weight_bytes(300, 140) == 300 * 140 + 4 * 3 * 2


ALL_CODES = torch.arange(256).to(torch.uint8).view(weights.FP8)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_and_kind_of_scale_means_the_same_on_every_backend(kind, dtype):
    scale = torch.tensor([[2.0**-9, 2.0**5]]).to(kind) if kind == torch.float8_e8m0fnu else torch.tensor([[0.37, 11]])
    scale = scale.to(kind)
    got = weights.dequantise(ALL_CODES[None], scale, dtype)
    by_column = scale.float().repeat_interleave(128)
    expected = (ALL_CODES.float() * by_column).to(dtype)[None]
    assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0))
    x = torch.cat([torch.eye(256), torch.zeros(1, 256)]).to(dtype)
    finite = ALL_CODES.float().isfinite()
    weight = FP8Tensor(torch.where(finite, ALL_CODES.view(torch.uint8), 0).view(weights.FP8)[None], scale, dtype)
    product = FP8Weights((weight,), dtype).product(x)
    assert torch.equal(product[:256, 0][finite], expected[0][finite]) and product[256] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_dim, in_dim", [(70, 1), (1, 511), (65, 513), (130, 1025), (33, 2100)])
def test_long_sums_have_the_bits_of_plain_weights_whatever_company_a_row_comes_in(dtype, out_dim, in_dim):
    weight = FP8Weights((fp8(out_dim, in_dim, dtype),), dtype)
    x = draw(210, in_dim, seed=3).to(dtype)
    whole = weight.product(x)
    assert torch.equal(whole, rows.linear(x, weight.dense(0, out_dim)))
    for first, last in ((0, 1), (3, 10), (5, 201)):
        assert torch.equal(weight.product(x[first:last]), whole[first:last])


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_as_one_stack_have_the_bits_of_each_alone(dtype):
    gate, up = (weights.quantise(draw(5, 140, 72, seed=seed)) for seed in (1, 2))
    stack = FP8Weights((FP8Tensor(*gate, dtype), weights.dequantise(*up, dtype)), dtype)
    assert stack.shape == (5, 280, 72)
    spans, x = [(0, 0, 3), (3, 3, 4), (4, 4, 30)], draw(30, 72).to(dtype)
    y = stack.grouped(x, spans)
    for expert, first, last in spans:
        assert torch.equal(y[first:last], rows.linear(x[first:last], stack.take(expert).dense(0, 280)))
    x.requires_grad_()
    assert torch.equal(stack.grouped(x, spans), y) and stack.grouped(x, spans).requires_grad


def test_blocks_begin_anew_in_every_shard():
    shards = [weights.quantise(draw(200, 140, seed=seed) * 10.0**seed) for seed in range(3)]
    codes = torch.cat([codes.view(torch.uint8) for codes, _ in shards]).view(weights.FP8)
    scale = torch.cat([scale for _, scale in shards])
    whole = FP8Tensor(codes, scale, torch.bfloat16, Shard(200))
    expected = torch.cat([weights.dequantise(*shard, torch.bfloat16) for shard in shards])
    assert torch.equal(whole.dense(), expected) and torch.equal(whole.rows(150, 431), expected[150:431])
    # Rows 70 to 150 of each shard: the end of its first block and the start of its second.
    middle = codes.view(torch.uint8).view(3, 200, 140)[:, 70:150].reshape(240, 140).view(weights.FP8)
    part = FP8Tensor(middle, scale, torch.bfloat16, Shard(80, offset=70))
    rows_of = torch.cat([expected[200 * n + 70 : 200 * n + 150] for n in range(3)])
    assert torch.equal(part.dense(), rows_of)
    x = draw(3, 140).bfloat16()
    assert torch.equal(FP8Weights((part, whole), x.dtype).product(x), rows.linear(x, torch.cat([rows_of, expected])))


def test_codes_become_numbers_on_their_way_into_the_native_product(each_backend, monkeypatch):
    weight, x, asked = FP8Weights((fp8(70, 600, torch.bfloat16),), torch.bfloat16), draw(2, 600).bfloat16(), []
    product = products.product
    monkeypatch.setattr(products, "product", lambda *args, **named: asked.append(args) or product(*args, **named))
    monkeypatch.setattr(FP8Weights, "dense", lambda *places: pytest.fail("the weight was dequantised"))
    if each_backend == "native" and backends.uses_native(x):
        assert weight.product(x).shape == (2, 70) and len(asked) == 1
