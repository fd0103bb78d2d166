"""Rows of matrix products are the same whatever company they come in."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import BackendUnavailable
from hyla.ops.exact import batched, gradients, row_checks, rows
from hyla.ops.weights import Packed, Plain, pack

pytestmark = pytest.mark.usefixtures("each_backend")

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(36, 20), (1, 64), (48, 1000), (129, 33)]
MOST = 700


def sensitive(shape, seed, sign=1.0):
    """Rows whose products with the other sign's cancel, so that what is left shows the order of summation."""
    return row_checks.check_data(*shape, torch.Generator().manual_seed(seed), sign)


def make(shape, dtype):
    out_dim, in_dim = shape
    return sensitive((MOST, in_dim), 1).to(dtype), sensitive((out_dim, in_dim), 2, -1.0).to(dtype)


@settings(max_examples=60)
@given(
    count=st.integers(1, MOST),
    first=st.integers(0, MOST - 1),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    packed=st.booleans(),
)
def test_a_row_of_linear_is_the_same_in_any_company_packed_or_plain(count, first, shape, dtype, packed):
    x_TD, weight = make(shape, dtype)
    whole = rows.linear(x_TD, weight)
    part = (pack(weight) if packed else Plain((weight,))).product(x_TD[first : first + count])
    assert torch.equal(part, whole[first : first + count])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_autograd_strides_and_offsets_change_no_bit_of_linear(shape, dtype):
    x_TD, weight = make(shape, dtype)
    expected = rows.linear(x_TD, weight)
    assert torch.equal(rows.linear(x_TD, weight.clone().requires_grad_()), expected)
    wide = torch.zeros(MOST, shape[1] + 5, dtype=dtype)
    wide[:, 3:-2] = x_TD
    assert torch.equal(rows.linear(wide[:, 3:-2], weight), expected)
    assert torch.equal(rows.linear(x_TD.t().contiguous().t(), weight), expected)


def test_linear_equals_the_product_in_float64():
    for shape in SHAPES:
        x_TD = torch.randn(37, shape[1], generator=torch.Generator().manual_seed(0))
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        expected = x_TD.double() @ weight.double().t()
        assert (rows.linear(x_TD, weight) - expected).abs().max() <= 1e-6 * expected.abs().max() * shape[1] ** 0.5
        torch.testing.assert_close(rows.linear(x_TD.double(), weight.double()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_larger_than_a_block_is_multiplied_by_blocks(dtype, monkeypatch):
    x_TD, weight = make((300, 20), dtype)
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 1500)
    sizes = rows.block_sizes(*weight.shape)
    assert len(sizes) > 1 and sum(sizes) == 300
    packed = pack(weight)
    if isinstance(packed, Packed):
        assert [block.shape[0] for block in packed.blocks] == list(sizes)
        assert packed.nbytes == weight.nbytes
    assert (packed.shape, packed.dtype) == ((300, 20), dtype)
    assert torch.equal(packed.dense(), weight)
    whole = rows.linear(x_TD, weight)
    assert torch.equal(packed.product(x_TD), whole)
    for count in (1, 3, 40):
        assert torch.equal(packed.product(x_TD[:count]), whole[:count])
    blocks = [rows.linear(x_TD, block) for block in weight.split(sizes)]
    assert torch.equal(whole, torch.cat(blocks, dim=1))


@given(out_dim=st.integers(1, 200_000), in_dim=st.integers(1, 20_000))
def test_blocks_cover_a_weight_and_have_at_most_two_shapes(out_dim, in_dim):
    sizes = rows.block_sizes(out_dim, in_dim)
    assert sum(sizes) == out_dim and min(sizes) > 0
    assert len(set(sizes)) <= 2 and len(set(sizes[:-1])) <= 1
    assert max(sizes) * in_dim <= rows.BLOCK_ELEMENTS + 64 * in_dim


@given(
    num_rows=st.integers(1, 5000),
    buckets=st.sets(st.sampled_from(rows.ROW_BUCKETS), min_size=1).map(lambda chosen: tuple(sorted(chosen))),
)
def test_splits_use_only_buckets_and_cover_the_rows_once(num_rows, buckets):
    sizes = rows.split_rows(num_rows, buckets)
    assert set(sizes) <= set(buckets)
    assert sum(sizes) >= num_rows > sum(sizes[:-1])


@given(num_rows=st.integers(1, 5000))
def test_padding_costs_at_most_half_of_the_rows_when_every_bucket_may_be_used(num_rows):
    assert sum(rows.split_rows(num_rows, rows.ROW_BUCKETS)) <= num_rows * 1.5


def test_packed_and_unpacked_weights_are_the_same_numbers():
    for dtype in DTYPES:
        weight = make((36, 20), dtype)[1]
        assert torch.equal(pack(weight).dense(), weight)
    double = weight.double()
    assert torch.equal(pack(double).dense(), double)


def test_the_gradient_of_linear_is_right_and_packed_weights_have_none():
    x_TD = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rows.linear, (x_TD, weight))
    packed = pack(weight.float())
    with pytest.raises(BackendUnavailable, match="unpack"):
        packed.product(x_TD.float())
    assert packed.product(x_TD.detach().float()).shape == (5, 3)
    assert rows.linear(x_TD[:0], weight).shape == (0, 3)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_products_are_rounded_once_whether_or_not_the_processor_multiplies_them(monkeypatch, has_bf16):
    monkeypatch.setattr(gradients, "multiplies_bf16", lambda: has_bf16)
    generator = torch.Generator().manual_seed(6)
    left, right = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((300, 40), (300, 72)))
    exact = left.double().t() @ right.double()
    for found in (gradients.weight_gradient(left, right), gradients.matmul(left.t(), right)):
        assert found.dtype == torch.bfloat16
        assert (
            (found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4
        ).all()  # half a step of bf16, and fp32's sums


@settings(max_examples=60)
@given(
    count=st.integers(1, 600),
    first=st.integers(0, 599),
    batch=st.integers(1, 19),
    dims=st.sampled_from([(16, 48), (20, 36), (64, 16), (3, 5), (2, 3), (33, 1)]),
    dtype=st.sampled_from(DTYPES),
    is_column_major=st.booleans(),
)
def test_a_row_of_bmm_depends_neither_on_other_rows_nor_on_the_batch(count, first, batch, dims, dtype, is_column_major):
    inner, columns = dims
    a = sensitive((19 * 600, inner), 3).view(19, 600, inner).to(dtype)
    b = sensitive((19 * columns, inner), 4, -1.0).view(19, columns, inner).transpose(1, 2).to(dtype)
    b = b if is_column_major else b.contiguous()
    whole = batched.bmm(a, b)
    some = slice(first, first + count)
    assert torch.equal(batched.bmm(a[:batch, some], b[:batch]), whole[:batch, some])
    assert torch.equal(batched.bmm(a[-batch:, some], b[-batch:]), whole[-batch:, some])


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_one_matrix_for_the_whole_batch_change_no_bit_of_bmm(dtype):
    a = sensitive((5 * 30, 20), 3).view(5, 30, 20).to(dtype)
    b = sensitive((36, 20), 4, -1.0).t().contiguous().to(dtype)
    expected = batched.bmm(a, torch.stack([b] * 5))
    assert torch.equal(batched.bmm(a, b.expand(5, -1, -1)), expected)
    assert torch.equal(batched.bmm(a.transpose(0, 1).contiguous().transpose(0, 1), b.expand(5, -1, -1)), expected)
    assert torch.equal(batched.bmm(a, torch.zeros(5, 20, 40, dtype=dtype)[..., 2:-2] + b), expected)


def test_bmm_equals_the_product_in_float64_and_has_its_gradient():
    a, b = torch.randn(3, 5, 20), torch.randn(3, 20, 36)
    expected = torch.bmm(a.double(), b.double())
    torch.testing.assert_close(batched.bmm(a, b).double(), expected, rtol=1e-5, atol=1e-5)
    inputs = [tensor[:2].double().requires_grad_() for tensor in (a, b)]
    assert torch.autograd.gradcheck(batched.bmm, inputs)


def test_a_library_that_depends_on_the_row_count_is_found_out(monkeypatch):
    """A product that sums in another order for few rows: those counts are not used for it."""

    def moody(x_RD, weight, bias_O=None):
        if x_RD.shape[0] < 32:
            return x_RD.flip(-1) @ weight.flip(-1).t()
        return x_RD @ weight.t()

    monkeypatch.setattr(rows, "reorder", lambda weight: weight)
    monkeypatch.setattr(rows, "linear_once", moody)
    for dtype in DTYPES:
        found = rows.row_buckets.__wrapped__(36, 500, dtype, torch.device("cpu"), 1)
        assert found.rows[0] >= 32 and set(found.plain) == set(found.rows)


def test_a_product_that_never_repeats_itself_is_refused(monkeypatch):
    monkeypatch.setattr(rows, "reorder", lambda weight: weight)
    monkeypatch.setattr(rows, "linear_once", lambda x_RD, weight, bias_O: torch.rand(x_RD.shape[0], weight.shape[0]))
    with pytest.raises(BackendUnavailable, match="repeats itself"):
        rows.row_buckets.__wrapped__(36, 20, torch.float32, torch.device("cpu"), 1)


def test_threads_may_ask_at_once():
    x_TD, weight = make((35, 27), torch.float32)
    results = []
    threads = [threading.Thread(target=lambda: results.append(rows.linear(x_TD, weight))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("columns", [5, 7, 10, 11, 12, 15])
@pytest.mark.parametrize("inner", [24, 64, 128])
def test_a_row_of_a_narrow_product_is_the_same_at_an_odd_place(inner, columns):
    """Libraries compute narrow products two rows at a time: an even row's bits then differ from an odd one's."""
    a = sensitive((2 * 65, inner), 3).view(2, 65, inner)
    b = sensitive((2 * columns, inner), 4, -1.0).view(2, columns, inner).transpose(1, 2).contiguous()
    whole = batched.bmm(a, b)
    for row in range(8):
        assert torch.equal(batched.bmm(a[:, row : row + 1], b), whole[:, row : row + 1])
        assert torch.equal(batched.bmm(a[:, row:], b), whole[:, row:])
