"""Weights of every kind: one contract, one result, whatever the numbers are stored as."""

import subprocess
import sys

import pytest
import torch

from hyla.errors import BackendUnavailable, ConfigError
from hyla.layers.linear import Linear, Projection
from hyla.ops import native
from hyla.ops.exact import rows
from hyla.ops.exact.cross_entropy import logits_of
from hyla.ops.weights import (
    BlockLayout,
    FP8Tensor,
    FP8Weights,
    HeadMatrices,
    HeadTiles,
    Plain,
    Shard,
    dequantise,
    pack,
    pack_heads,
    pack_stack,
    quantise,
)

OUTS, IN, EXPERTS = (384, 128), 256, 4
DTYPE = torch.bfloat16


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kinds(*lead):
    """The same numbers as every kind of weight: FP8 codes, and what they stand for."""
    stored = [FP8Tensor(*quantise(draw(*lead, out, IN, seed=out)), DTYPE) for out in OUTS]
    parts = [dequantise(tensor.codes, tensor.scale, DTYPE) for tensor in stored]
    packed = pack_stack(*parts) if lead else pack(*parts)
    return {"plain": Plain(tuple(parts)), "packed": packed, "fp8": FP8Weights(tuple(stored), DTYPE)}


NAMES = ("plain", "packed", "fp8")


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_of_any_kind_is_the_same_numbers_and_the_same_product(name):
    every, x = kinds(), draw(7, IN).to(DTYPE)
    weight, plain = every[name], every["plain"]
    assert (weight.shape, weight.dtype) == ((sum(OUTS), IN), DTYPE)
    assert torch.equal(weight.dense(), plain.dense()) and torch.equal(weight.dense(100, 400), plain.dense(100, 400))
    assert torch.equal(weight.product(x), plain.product(x))
    assert weight.nbytes <= plain.nbytes


@pytest.mark.parametrize("name", NAMES)
def test_a_stack_of_any_kind_gives_its_experts_and_their_grouped_products(name):
    every, x, spans = kinds(EXPERTS), draw(9, IN).to(DTYPE), [(0, 0, 2), (2, 2, 3), (3, 3, 9)]
    weight, plain = every[name], every["plain"]
    assert (weight.shape, weight.dtype) == ((EXPERTS, sum(OUTS), IN), DTYPE)
    assert torch.equal(weight.dense(), plain.dense()) and torch.equal(weight.dense(100, 400), plain.dense(100, 400))
    y = weight.grouped(x, spans)
    assert torch.equal(y, plain.grouped(x, spans))
    for expert, first, last in spans:
        assert torch.equal(weight.take(expert).product(x[first:last]), y[first:last])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", [(), (EXPERTS,)])
def test_shards_of_fused_matrices_divide_each_of_them(name, lead):
    weight = kinds(*lead)[name]
    whole = weight.dense().split(OUTS, dim=-2)
    outs = [weight.shard("out", rank, 2).dense() for rank in range(2)]
    for rank, part in enumerate(outs):
        assert torch.equal(part, torch.cat([matrix.chunk(2, dim=-2)[rank] for matrix in whole], dim=-2))
    ins = [weight.shard("in", rank, 2).dense() for rank in range(2)]
    assert torch.equal(torch.cat(ins, dim=-1), weight.dense())
    with pytest.raises(ConfigError, match="cannot be divided among 5 ranks"):
        weight.shard("out", 0, 5)
    if lead:
        assert torch.equal(weight.shard("expert", 1, 2).dense(), weight.dense()[2:])
    else:
        with pytest.raises(ConfigError):
            weight.shard("expert", 0, 2)


def test_rows_of_fp8_keep_their_scales_wherever_they_are_cut():
    codes, scale = quantise(draw(300, IN) * torch.logspace(-2, 2, 300)[:, None])
    weight = FP8Weights((FP8Tensor(codes, scale, DTYPE),), DTYPE)
    assert torch.equal(torch.cat([weight.shard("out", rank, 3).dense() for rank in range(3)]), weight.dense())
    with pytest.raises(ConfigError, match="cut FP8 blocks of 128"):
        weight.shard("in", 0, 4)
    sharded = FP8Weights((FP8Tensor(codes, torch.cat([scale, scale])[:4], DTYPE, Shard(150)),), DTYPE)
    assert torch.equal(torch.cat([sharded.shard("out", rank, 2).dense() for rank in range(2)]), sharded.dense())
    with pytest.raises(ConfigError, match="cut FP8 shards of 150"):
        sharded.shard("out", 0, 3)


def test_a_layout_says_how_many_scales_there_are():
    assert BlockLayout((3, 300, 200)).scale_shape == (3, 3, 2)
    assert BlockLayout((300, 200), Shard(150)).scale_shape == (4, 2)
    part, scales = BlockLayout((300, 200)).rows(100, 290)
    assert (part.shard, scales) == (Shard(190, offset=100), slice(0, 3))


@pytest.mark.parametrize("is_transposed", [False, True])
def test_matrices_of_heads_multiply_each_head_s_rows(is_transposed):
    stored = draw(3, 20, 12).to(DTYPE)
    weight = HeadMatrices(stored, is_transposed)
    out, into = (20, 12) if is_transposed else (12, 20)
    x = draw(5, 3, into, seed=1)
    assert (weight.shape, weight.dtype) == ((3, out, into), torch.float32)
    y = weight.product(x)
    for head in range(3):
        expected = x[:, head].double() @ weight.take(head).dense().double().t()
        torch.testing.assert_close(y[:, head].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat([weight.shard("expert", rank, 3).dense() for rank in range(3)]), weight.dense())


@pytest.mark.skipif(native.why_missing() is not None, reason="no C compiler on this machine")
@pytest.mark.parametrize("stored_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("into", [12, 7])
def test_packed_matrices_of_heads_keep_their_bytes_and_the_bits(stored_dtype, is_transposed, into):
    """128 outputs are whole tiles; an odd inner dimension is filled up."""
    stored = draw(3, *((128, into) if is_transposed else (into, 128))).to(stored_dtype)
    plain, packed = HeadMatrices(stored, is_transposed), pack_heads(stored, is_transposed)
    assert isinstance(packed, HeadTiles) and packed.tiles.dtype == stored_dtype
    assert packed.nbytes == 3 * 128 * (into + into % (2 if stored_dtype == torch.bfloat16 else 1)) * stored.itemsize
    assert torch.equal(packed.in_place(), stored) and torch.equal(packed.dense(), plain.dense())
    x = draw(40, 3, into, seed=1)
    y = plain.product(x)
    for some in (slice(0, 40), slice(39, 40), slice(3, 9)):
        assert torch.equal(packed.product(x[some]), y[some]) and torch.equal(plain.product(x[some]), y[some])
    wide_rows = torch.zeros(40, 3, 200)
    packed.product(x, out=wide_rows[:, :, 64:192])
    assert torch.equal(wide_rows[:, :, 64:192], y) and not wide_rows[:, :, :64].any()
    for head in range(3):  # the sum that a matrix alone has
        assert torch.equal(packed.take(head).product(x[:, head]), y[:, head])
    assert torch.equal(torch.cat([packed.shard("expert", rank, 3).dense() for rank in range(3)]), packed.dense())
    with pytest.raises(BackendUnavailable, match="unpack"):
        packed.product(x.clone().requires_grad_())


@pytest.mark.parametrize("is_transposed", [False, True])
def test_the_gradient_of_matrices_of_heads_is_right_and_autograd_changes_no_bit(is_transposed):
    stored, x = draw(3, 9, 5).requires_grad_(), draw(4, 3, 5 if is_transposed else 9, seed=1).requires_grad_()
    y, probe = HeadMatrices(stored, is_transposed).product(x), draw(4, 3, 9 if is_transposed else 5, seed=2)
    with torch.no_grad():
        assert torch.equal(HeadMatrices(stored, is_transposed).product(x), y)
    y.backward(probe)
    doubles = [tensor.detach().double().requires_grad_() for tensor in (stored, x)]
    weight = doubles[0] if is_transposed else doubles[0].transpose(1, 2)
    torch.einsum("hoi,thi->tho", weight, doubles[1]).backward(probe.double())
    for mine, other in zip((stored, x), doubles):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-5, atol=1e-5)


def test_only_plain_weights_are_trained():
    x = draw(3, IN).to(DTYPE).requires_grad_()
    every = kinds()
    if not isinstance(every["packed"], Plain):  # neither tiles nor a layout of the library's in bf16: it stays plain
        with pytest.raises(BackendUnavailable, match="unpack"):
            every["packed"].product(x)
    every["fp8"].product(x).sum().backward()
    assert x.grad is not None
    part = every["plain"].parts[0].clone().requires_grad_()
    Plain((part,)).product(x).sum().backward()
    assert part.grad is not None


def test_where_blocks_lie_is_known_without_torch():
    code = "import hyla.ops.weights.blocks, hyla.ops.weights.cost, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("inner", [40, 41])
def test_widened_sums_of_bf16_have_one_result_for_any_storage_and_number_of_rows(inner):
    x, weight = (draw(count, inner, seed=count).to(DTYPE) for count in (70, 130))
    exact = x.double() @ weight.double().t()
    head = Linear(inner, 130)
    head.weight = torch.nn.Parameter(weight.clone())
    projection = Projection(head, dtype=torch.float32)
    whole = projection.widened(x).detach()
    assert whole.dtype == torch.float32
    assert float((whole - exact).abs().max()) <= 1e-5 * float(exact.abs().max())
    assert torch.equal(rows.linear_widened(x, weight), whole)
    assert torch.equal(logits_of(x, weight), whole)
    assert torch.equal(whole.bfloat16(), rows.linear(x, weight))  # the sums of bf16's own product, not yet rounded
    assert torch.equal(torch.cat([projection.widened(row[None]).detach() for row in x]), whole)
    projection.pack()
    with torch.no_grad():
        assert torch.equal(projection.widened(x), whole)
        assert torch.equal(torch.cat([projection.widened(x[:7]), projection.widened(x[7:])]), whole)


def test_the_gradient_of_widened_sums_is_that_of_the_plain_formula():
    x, weight = (draw(count, 40, seed=count).to(DTYPE).requires_grad_() for count in (9, 130))
    grad = draw(9, 130, seed=3).float()
    rows.linear_widened(x, weight).backward(grad)
    for found, exact in ((x.grad, grad.double() @ weight.double()), (weight.grad, grad.double().t() @ x.double())):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, exact.bfloat16()) or (found.double() - exact).abs().max() <= 2**-8 * exact.abs().max()
