"""The portable arithmetic: a row's bits depend neither on the rows beside it nor on how the library sums."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.ops.exact import portable


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def uneven_linear(x_RD, weight_OD, bias_O=None):
    """A library whose order of summation follows from a row's place."""
    plain = x_RD @ weight_OD.t()
    plain[1::2] = (x_RD[1::2].flip(1) @ weight_OD.flip(1).t()) * (1 + 2**-20)
    return plain if bias_O is None else plain + bias_O


def uneven_bmm(a_BMK, b_BKN):
    plain = a_BMK @ b_BKN
    plain[1::2] *= 1 + 2**-20
    return plain


@pytest.fixture
def fresh():
    """Nothing is proven before, and nothing of this test's library is believed after it."""
    proofs = (portable.linear_is_proven, portable.joins_bias, portable.bmm_is_proven)
    for proof in proofs:
        proof.cache_clear()
    yield
    for proof in proofs:
        proof.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out_dim", "in_dim"), [(37, 20), (1, 48), (300, 1)])
def test_a_linear_row_is_the_same_alone_and_among_others(fresh, dtype, out_dim, in_dim):
    x, weight = draw(83, in_dim, dtype=dtype), draw(out_dim, in_dim, seed=1, dtype=dtype)
    whole = portable.linear(x, weight)
    assert whole.shape == (83, out_dim) and whole.dtype == dtype
    for first, last in ((0, 1), (5, 22), (17, 83), (82, 83)):
        assert torch.equal(portable.linear(x[first:last], weight), whole[first:last])
    expected = x.double() @ weight.double().t()
    assert (whole.double() - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2) * expected.abs().max()


@given(st.integers(1, 40), st.integers(1, 150), st.integers(0, 1000))
@settings(max_examples=25)
def test_a_batched_row_is_the_same_in_every_batch(count, rows, seed):
    a, b = draw(count, rows, 20, seed=seed), draw(count, 20, 12, seed=seed + 1)
    whole = portable.bmm(a, b)
    item, row = seed % count, seed % rows
    assert torch.equal(portable.bmm(a[item : item + 1, row : row + 1], b[item : item + 1])[0, 0], whole[item, row])
    shared = portable.bmm(a, b[:1].expand(count, -1, -1))
    assert torch.equal(shared[item], portable.bmm(a[item : item + 1], b[:1])[0])


@pytest.mark.parametrize("planted", ["linear", "bmm"])
def test_a_library_whose_rows_depend_on_their_place_is_not_used_and_a_line_says_so(fresh, monkeypatch, caplog, planted):
    monkeypatch.setattr(portable, f"library_{planted}", {"linear": uneven_linear, "bmm": uneven_bmm}[planted])
    x, weight = draw(21, 24), draw(10, 24, seed=1)
    with caplog.at_level(logging.WARNING, "hyla.ops"):
        found = portable.linear(x, weight) if planted == "linear" else portable.bmm(x[None], weight.t()[None])[0]
    assert "depend on a row's place" in caplog.text and "24" in caplog.text
    assert torch.equal(found, portable.loop_product(x, weight.t()))
    assert torch.equal(found[3:4], portable.loop_product(x[3:4], weight.t()))


def test_the_loop_is_a_product():
    a, b = draw(3, 7, 19), draw(3, 19, 5, seed=1)
    assert torch.allclose(portable.loop_product(a, b), a @ b, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 20, 36, 48, 1000, 5001])
def test_a_sum_is_a_fixed_tree_whatever_stands_beside_it(width):
    x = draw(9, width)
    whole = portable.sum_last(x)
    assert torch.equal(portable.sum_last(x[4:5]), whole[4:5])
    assert torch.equal(portable.sum_last(x.t().contiguous().t()), whole)
    assert torch.allclose(whole, x.double().sum(-1, keepdim=True).float(), atol=1e-3)


def test_a_running_sum_adds_in_order_as_an_appended_row_does():
    x = draw(2, 64, 5).double()
    sums = portable.running_sum(x, 1)
    total = torch.zeros(2, 5, dtype=torch.float64)
    for place in range(64):
        total = total + x[:, place] if place else x[:, place]
        assert torch.equal(sums[:, place], total)


def test_sums_have_gradients():
    x = draw(3, 11).double().requires_grad_()
    assert torch.autograd.gradcheck(portable.sum_last, x)
    assert torch.autograd.gradcheck(lambda y: portable.running_sum(y, 1), x)
    assert torch.autograd.gradcheck(lambda y: portable.running_sum(y, 0), x)
