"""The choice of numerics: where it holds, and what the library is called with under each."""

import threading

import pytest
import torch

from hyla.caches import Cache
from hyla.errors import HylaError
from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops import backends, numerics
from hyla.ops.exact import batched, rows
from hyla.ops.weights import pack

ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
"""Largest relative error of one rounding to nearest."""

LIBRARY = pytest.mark.parametrize("backend", ["torch", "portable"])


@pytest.fixture
def use_backend(request):
    def use(name):
        backends.use(name)

    yield use
    backends.use(request.config.getoption("--backend") or "auto")


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def seen(monkeypatch, module, name):
    """The row counts with which a function of a library is called."""
    found, call = [], getattr(module, name)

    def counted(first, *others, **options):
        found.append(first.shape[-2])
        return call(first, *others, **options)

    monkeypatch.setattr(module, name, counted)
    return found


def test_a_choice_ends_with_its_block_and_never_reaches_another_thread():
    assert numerics.chosen() == "exact"
    elsewhere = []
    with numerics.use("fast"):
        thread = threading.Thread(target=lambda: elsewhere.append(numerics.chosen()))
        thread.start()
        thread.join()
        with numerics.use("exact"):
            assert not numerics.is_fast()
        assert numerics.is_fast()
    with pytest.raises(ZeroDivisionError), numerics.use("fast"):
        _ = 1 / 0
    assert (numerics.chosen(), elsewhere) == ("exact", ["exact"])


@LIBRARY
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=["fp32", "bf16"])
def test_fast_products_are_one_call_within_the_bound_of_a_sum_in_any_order(
    backend, is_packed, dtype, use_backend, monkeypatch
):
    """|y - x W^T| <= D u |x| |W|^T / (1 - D u) whatever the order, and one rounding (Higham, section 3.1); a bias joins
    the rounded product, so that there are two more."""
    use_backend(backend)
    x, weight, bias = draw(83, 40, dtype=dtype), draw(96, 40, seed=1, dtype=dtype), draw(96, seed=2)
    stored = pack(weight) if is_packed else weight
    product = stored.product if is_packed else lambda x, bias=None: rows.linear(x, stored, bias)
    counts = seen(monkeypatch, rows, "linear_once")
    exact = product(x)
    with numerics.use("fast"):
        counts.clear()
        found, biased = product(x), product(x, bias)
        assert counts == [83, 83]
    unit, wide, doubles = ROUNDING[dtype], ROUNDING[torch.float32], (x.double(), weight.double())
    right, most = doubles[0] @ doubles[1].T, doubles[0].abs() @ doubles[1].abs().T
    bound = 40 * wide / (1 - 40 * wide) * most + unit * right.abs() + unit * wide
    assert ((found.double() - right).abs() <= bound).all() and found.dtype == dtype
    total = right + bias.double()
    assert ((biased.double() - total).abs() <= (1 + 2 * unit) * bound + 2 * unit * (total.abs() + bound)).all()
    counts.clear()
    assert torch.equal(product(x), exact) and counts != [83]


@LIBRARY
def test_fast_batched_products_are_one_call_and_exact_ones_as_before(backend, use_backend, monkeypatch):
    use_backend(backend)
    a, b = draw(5, 70, 24), draw(5, 24, 20, seed=1)
    exact = batched.bmm(a, b)
    counts = seen(monkeypatch, torch, "bmm")
    with numerics.use("fast"):
        found = batched.bmm(a, b)
    assert counts == [70]
    unit, right = ROUNDING[torch.float32], a.double() @ b.double()
    assert ((found.double() - right).abs() <= 25 * unit / (1 - 25 * unit) * (a.double().abs() @ b.double().abs())).all()
    counts.clear()
    assert torch.equal(batched.bmm(a, b), exact) and counts != [70]


def test_our_kernel_computes_under_both(use_backend):
    if backends.on(torch.device("cpu")) != "native":
        pytest.skip("no kernels here, or another backend was asked for")
    x, weight = draw(83, 40), pack(draw(96, 40, seed=1))
    with numerics.use("fast"):
        assert torch.equal(weight.product(x)[5:6], weight.product(x[5:6]))
        assert torch.equal(weight.product(x), rows.linear(x, weight.dense()))


@pytest.mark.parametrize("mine, other", [("exact", "fast"), ("fast", "exact")])
def test_a_cache_refuses_the_other_numerics(mine, other):
    specs = [CacheSpec(page_tensors=(TensorSpec("k", (1, 4, 64), torch.float32, "kv"),))]
    cache = Cache(specs, num_pages=2, num_slots=1, numerics=mine)
    sequence = cache.open()
    with numerics.use(mine):
        cache.batch([(sequence, 3)])
        cache.commit(sequence, 3)
    with numerics.use(other), pytest.raises(HylaError, match=f"for numerics '{mine}' and now '{other}' computes"):
        cache.batch([(sequence, 1)])
    cache.close(sequence)
    cache.ledger.check()
