"""A bias joins a product in fp32 and the sum is rounded once, however the weight is stored and the rows arrive."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import BackendUnavailable, ConfigError
from hyla.layers.linear import Linear, Projection
from hyla.ops import backends
from hyla.ops.exact import portable, row_checks, rows
from hyla.ops.weights import FP8Tensor, FP8Weights, HeadMatrices, Plain, pack, pack_stack, quantise

pytestmark = pytest.mark.usefixtures("each_backend")

BF16, KINDS = torch.bfloat16, ("plain", "packed", "fp8")
TOKENS, OUT, IN = 75, 141, 300


def whole_numbers(*shape, most, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator).to(torch.float32)


def exact_operands():
    """x, weight and bias in bf16 whose products and sums fp32 holds exactly, so that one rounding is all there is."""
    x, weight = (whole_numbers(rows_, IN, most=15, seed=seed) for rows_, seed in ((TOKENS, 1), (OUT, 2)))
    return x.to(BF16), weight.to(BF16), (whole_numbers(OUT, most=120, seed=3) / 8).to(BF16)


def once(x, weight, bias):
    return (x.double() @ weight.double().t() + bias.double()).to(BF16)


def twice(x, weight, bias):
    return (x.double() @ weight.double().t()).to(BF16) + bias


def kind_of(name, weight):
    if name == "fp8":
        scale = torch.ones(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))
        return FP8Weights((FP8Tensor(weight.to(torch.float8_e4m3fn), scale, weight.dtype),), weight.dtype)
    return pack(weight) if name == "packed" else Plain((weight,))


@pytest.mark.parametrize("name", KINDS)
def test_a_bf16_product_is_not_rounded_before_its_bias_is_added(name):
    x, weight, bias = exact_operands()
    expected = once(x, weight, bias)
    assert (expected != twice(x, weight, bias)).sum() > 100  # the case shows the difference
    got = kind_of(name, weight).product(x, bias)
    assert torch.equal(got, expected)
    for first, last in ((0, 1), (5, 22), (17, 75), (74, 75)):
        assert torch.equal(kind_of(name, weight).product(x[first:last], bias), expected[first:last])


@pytest.mark.parametrize("name", KINDS)
def test_a_bias_that_is_stored_wider_than_the_weight_keeps_its_bits(name):
    x, weight, bias = exact_operands()
    fine = bias.float() + 2.0**-6
    assert not torch.equal(fine.to(BF16).float(), fine)
    expected = (x.double() @ weight.double().t()).float().add(fine).to(BF16)
    got = kind_of(name, weight).product(x, fine)
    assert torch.equal(got, expected)
    assert torch.equal(kind_of(name, weight).product(x, bias.float()), once(x, weight, bias))
    assert torch.equal(portable.linear(x, weight, fine), expected)
    bias = fine.clone().requires_grad_()
    Plain((weight,)).product(x, bias).sum().backward()
    assert bias.grad.dtype == torch.float32 and torch.equal(bias.grad, torch.full((OUT,), float(TOKENS)))


def test_the_portable_arithmetic_rounds_once_too():
    x, weight, bias = exact_operands()
    assert torch.equal(portable.linear(x, weight, bias), once(x, weight, bias))
    assert torch.equal(portable.linear(x[3:4], weight, bias), once(x, weight, bias)[3:4])


@pytest.fixture
def fresh(request):
    """What is found out about a library within the test is not believed after it."""
    proofs = (rows.row_buckets, rows.joins_bias, portable.linear_is_proven, portable.joins_bias)
    for proof in proofs:
        proof.cache_clear()
    yield
    for proof in proofs:
        proof.cache_clear()


def rounding_twice(linear):
    return lambda x, weight, bias=None: linear(x, weight) if bias is None else linear(x, weight) + bias


@pytest.mark.parametrize("home, name", [(rows, "linear_once"), (portable, "library_linear")])
def test_a_library_that_rounds_before_it_adds_is_found_out_and_not_given_the_bias(fresh, monkeypatch, home, name):
    x, weight, bias = exact_operands()
    monkeypatch.setattr(home, name, rounding_twice(getattr(home, name)))
    linear = rows.linear if home is rows else portable.linear
    if home is rows and backends.is_portable(x.device):
        pytest.skip("the portable arithmetic computes instead")
    assert torch.equal(getattr(home, name)(x[:16], weight, bias), twice(x, weight, bias)[:16])
    assert torch.equal(linear(x, weight, bias), once(x, weight, bias))
    assert torch.equal(linear(x[9:10], weight, bias), once(x, weight, bias)[9:10])
    if home is rows:
        assert torch.equal(pack(weight).product(x, bias), once(x, weight, bias))


def test_rows_of_the_portable_library_that_differ_by_place_with_a_bias_alone_are_found_out(fresh, monkeypatch):
    x, weight, bias = exact_operands()
    plain = portable.library_linear

    def uneven(x_RD, weight_OD, bias_O=None):
        y = plain(x_RD, weight_OD, bias_O)
        if bias_O is not None:
            y[1::2] *= 1 + 2**-7
        return y

    monkeypatch.setattr(portable, "library_linear", uneven)
    assert torch.equal(portable.linear(x, weight, bias), once(x, weight, bias))


@settings(max_examples=60)
@given(
    count=st.integers(1, 700),
    first=st.integers(0, 699),
    shape=st.sampled_from([(36, 20), (1, 64), (48, 1000), (129, 33), (5, 1)]),
    dtype=st.sampled_from([torch.float32, BF16]),
    is_packed=st.booleans(),
)
def test_a_row_with_a_bias_is_the_same_in_any_company_packed_or_plain(count, first, shape, dtype, is_packed):
    generator = torch.Generator().manual_seed(7)
    weight = row_checks.check_data(*shape, generator, -1.0).to(dtype)
    x = row_checks.check_data(700, shape[1], generator, 1.0).to(dtype)
    bias = row_checks.check_bias(rows.linear(x, weight), generator)
    whole = rows.linear(x, weight, bias)
    some = (pack(weight) if is_packed else Plain((weight,))).product(x[first : first + count], bias)
    assert torch.equal(some, whole[first : first + count])
    assert torch.equal(rows.linear(x, weight, bias.clone().requires_grad_()), whole)
    if dtype == torch.float32:
        assert torch.equal(whole, rows.linear(x, weight) + bias)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("out_dim, in_dim", [(70, 1), (65, 513), (130, 1025), (300, 200)])
def test_fp8_weights_add_a_bias_with_the_bits_of_plain_ones(dtype, out_dim, in_dim):
    generator = torch.Generator().manual_seed(out_dim)
    codes, scale = quantise(torch.randn(out_dim, in_dim, generator=generator))
    weight = FP8Weights((FP8Tensor(codes, scale, dtype),), dtype)
    x, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((210, in_dim), (out_dim,)))
    whole = weight.product(x, bias)
    assert torch.equal(whole, rows.linear(x, weight.dense(), bias))
    assert not torch.equal(whole, weight.product(x))
    for first, last in ((0, 1), (3, 10), (5, 201)):
        assert torch.equal(weight.product(x[first:last], bias), whole[first:last])


@pytest.mark.parametrize("name", KINDS)
def test_a_weight_larger_than_a_block_gives_each_block_its_part_of_the_bias(name, monkeypatch):
    x, weight, bias = exact_operands()
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 64 * IN)
    assert len(rows.block_sizes(OUT, IN)) > 1
    assert torch.equal(kind_of(name, weight).product(x, bias), once(x, weight, bias))


def test_a_projection_gives_no_bias_to_a_part_that_has_none():
    x, weight, bias = exact_operands()
    parts = [Linear(IN, 41, has_bias=True), Linear(IN, 60), Linear(IN, 40, has_bias=True)]
    places = [slice(0, 41), slice(41, 101), slice(101, 141)]
    bias[places[1]] = 0
    for part, place in zip(parts, places):
        part.weight = torch.nn.Parameter(weight[place])
        part.bias = None if part.bias is None else torch.nn.Parameter(bias[place])
    projection = Projection(*parts)
    assert torch.equal(projection.fused(x), once(x, weight, bias))
    with torch.no_grad():
        projection.pack()
        assert all(part.weight.is_meta for part in parts) and not parts[0].bias.is_meta
        assert [y.shape[1] for y in projection(x)] == [41, 60, 40]
        assert torch.equal(projection.fused(x), once(x, weight, bias))
    assert Projection(parts[1]).bias() is None


class TestGradients:
    def test_they_are_those_of_float64(self):
        operands = [torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((6, 20), (7, 20), (7,))]
        assert torch.autograd.gradcheck(rows.linear, operands)

    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (BF16, 2**-8)])
    @pytest.mark.parametrize("name", ["plain", "fp8"])
    def test_a_bias_gets_the_sum_over_rows_rounded_once(self, name, dtype, tolerance):
        x, weight, bias = (operand.to(dtype) for operand in exact_operands())
        bias.requires_grad_()
        grad = torch.randn(TOKENS, OUT, generator=torch.Generator().manual_seed(4)).to(dtype)
        kind_of(name, weight).product(x, bias).backward(grad)
        assert bias.grad.dtype == dtype
        torch.testing.assert_close(bias.grad.double(), grad.double().sum(0), rtol=tolerance, atol=1e-5)
        (by_rows,) = torch.autograd.grad(kind_of(name, weight).product(x.requires_grad_(), bias), x, grad)
        torch.testing.assert_close(by_rows.double(), grad.double() @ weight.double(), rtol=0.01, atol=0.5)

    def test_packed_weights_refuse_them(self):
        x, weight, bias = exact_operands()
        packed = pack(weight)
        if isinstance(packed, Plain):
            pytest.skip("nothing is packed in the portable arithmetic")
        with pytest.raises(BackendUnavailable, match="unpack"):
            packed.product(x.requires_grad_(), bias)


def test_heads_and_experts_take_no_bias():
    with pytest.raises(ConfigError, match=r"a bias \(12,\) cannot join the products of heads"):
        HeadMatrices(torch.randn(3, 20, 12), False).product(torch.randn(5, 3, 20), torch.zeros(12))
    with pytest.raises(ConfigError, match="multiplies grouped rows"):
        pack_stack(torch.randn(3, 20, 12)).product(torch.randn(5, 12), torch.zeros(20))
