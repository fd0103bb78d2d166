"""MLA's expanded form, which `numerics` "fast" takes for long stretches: within derived bounds, and only there."""

import pytest
import torch

from hyla.layers.mla import MLA
from hyla.layers.sparse_mla import SparseMLA
from hyla.ops import numerics
from hyla.ops.batch import Batch
from hyla.ops.latent import expanded
from hyla.ops.latent.cost import LEAST_ROWS, expansion_pays
from hyla.ops.weights.heads import HeadMatrices, pack_heads

D, H, NOPE, ROPE, V, LATENT = 44, 5, 12, 8, 14, 48
DIMS = {"latent_dim": LATENT, "nope_dim": NOPE, "rope_dim": ROPE, "value_dim": V}
SHAPE = {"num_heads": H, "kv_lora_dim": LATENT, "nope_dim": NOPE, "rope_dim": ROPE, "value_dim": V}
START, LENGTH, SHORT = 70, LEAST_ROWS + 5, 3
FP32, BF16 = 2.0**-24, 2.0**-8
"""Largest relative error of one rounding to nearest."""
TOLERANCE = 1e-5
"""Relative error of an fp32 layer against float64, as of the absorbed form (test_softmax_mla.py)."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def batch_of(*spans):
    """A cached batch of (start, length), with pages in no order; page 0 is the null page."""
    counts = [-(-(start + length) // 64) for start, length in spans]
    pages = [tuple(1 + n + len(spans) * i for i in range(count))[::-1] for n, count in enumerate(counts)]
    starts, lengths = zip(*spans)
    return Batch(lengths, starts, tuple(range(1, len(spans) + 1)), tuple(pages))


def pages_for(batch, width, dtype):
    """Random latents in all places."""
    pages = draw(1 + max(map(max, batch.pages)), 1, width, 64, seed=9, dtype=dtype)
    pages[0] = 0
    return pages


def make(dtype=torch.float32, kind=MLA, **more):
    layer = kind(D, **SHAPE, norm_eps=1e-5, rotary_dim=6, rope_theta=1000.0, **{"q_lora_dim": None, **more})
    layer.initialize(0.2, torch.Generator().manual_seed(3))
    return layer.to(dtype).eval()


def run(layer, x_TD, batch, cache, name):
    """What the layer gives, and the pages that it leaves."""
    pages = None if cache is None else {name: tensor.clone() for name, tensor in cache.items()}
    with torch.no_grad(), numerics.use(name):
        return layer(x_TD, batch, pages), pages


def error_bound(q, k, v, abs_k, abs_v, scale, mask, dtype):
    """What a row reads, and how far from it sums in any order may end: off by n u / (1 - n u) of their absolute terms.

    A key is off by that of its sum over the latent, and by one rounding to dtype; values alike. A score adds its own
    sum (with the scaling), and the difference from the maximum; then exp, the sums over keys and the division are 16
    more roundings beside one for each key. With e the relative error of a weight's exponential, the mean o = sum p v is
    off by at most (sum p e |v| + |o| sum p e) / (1 - sum p e), and by sum p times the values' error.
    """
    rounding = 0.0 if dtype == torch.float32 else BF16

    def summed(count):
        return count * FP32 / (1 - count * FP32)

    def weighted(weight_HIJ, x_JHV):
        return torch.einsum("hij,jhv->ihv", weight_HIJ, x_JHV)

    def dots(x_JHK):
        return torch.einsum("ihk,jhk->hij", q.abs(), x_JHK) * scale

    wrong_k, wrong_v = (
        (1 + rounding) * summed(LATENT) * x_abs + rounding * x.abs() for x, x_abs in ((k, abs_k), (v, abs_v))
    )
    scores = torch.einsum("ihk,jhk->hij", q, k) * scale
    wrong_s = dots(wrong_k) + summed(NOPE + ROPE + 2) * dots(k.abs() + wrong_k)
    wrong_s = wrong_s + 2 * FP32 * (scores.abs() + wrong_s).amax(-1, keepdim=True)
    p = scores.masked_fill(mask, float("-inf")).softmax(-1)
    e = torch.expm1(wrong_s) + summed(mask.shape[-1] + 16)
    right, off_by = weighted(p, v), (p * e).sum(-1).T[..., None]
    bound = (weighted(p * e, v.abs() + wrong_v) + right.abs() * off_by) / (1 - off_by) + weighted(p, wrong_v)
    return right, bound


@DTYPES
@pytest.mark.parametrize("heads_at_once", [1, H])
@pytest.mark.parametrize("choice", ["exact", "fast"])
def test_expanded_attention_is_within_the_bound_of_its_sums(dtype, heads_at_once, choice, each_backend, monkeypatch):
    """Against float64 of the cached numbers. The choice decides which products it is made of, not what it is."""
    batch = batch_of((START, LENGTH), (0, 64), (127, 1))
    pages = pages_for(batch, LATENT + ROPE, dtype)
    q, k = draw(batch.num_tokens, H, NOPE + ROPE), draw(batch.num_tokens, 1, LATENT + ROPE, seed=1, dtype=dtype)
    k_up, v_up = draw(H, NOPE, LATENT, seed=2, dtype=dtype) / 7, draw(H, V, LATENT, seed=3, dtype=dtype) / 7
    head_bytes = 64 * (NOPE + ROPE + V) * dtype.itemsize
    monkeypatch.setattr(expanded, "EXPANDED_BYTES", heads_at_once * head_bytes * (2 + (START + LENGTH) // 64))
    options = {"batch": batch, "k_pages": pages, "scale": 0.3}
    with torch.no_grad(), numerics.use(choice):
        found = expanded.expanded_attention(q, k, pack_heads(k_up, False), HeadMatrices(v_up, True), **options)
    assert found.dtype == torch.float32
    for n, (start, length, offset) in enumerate(zip(batch.starts, batch.lengths, batch.offsets)):
        table = pages[list(batch.pages[n])][:, 0].transpose(1, 2).flatten(0, 1)[: start + length].double()
        here = slice(offset, offset + length)
        assert torch.equal(table[start:], k[here, 0].double())
        latent, k_pe = table[:, None, :LATENT], table[:, None, LATENT:].expand(-1, H, -1)
        keys, values = ((latent[:, 0] @ w.double().flatten(0, 1).T).unflatten(1, (H, -1)) for w in (k_up, v_up))
        abs_k, abs_v = (
            (latent[:, 0].abs() @ w.double().abs().flatten(0, 1).T).unflatten(1, (H, -1)) for w in (k_up, v_up)
        )
        whole, abs_whole = torch.cat([keys, k_pe], -1), torch.cat([abs_k, k_pe.abs()], -1)
        mask = torch.ones(length, start + length, dtype=torch.bool).triu(1 + start)
        right, bound = error_bound(q[here].double(), whole, values, abs_whole, abs_v, 0.3, mask, dtype)
        assert ((found[here].double() - right).abs() <= bound).all()
        least = BF16 / 4 if dtype == torch.float32 else 0.5  # a bound that sees a rounding to bf16, or a wrong product
        assert bound.mean() < least * right.abs().mean()


@pytest.mark.parametrize("options", [{}, {"head_gate": True}, {"q_lora_dim": 16}], ids=["plain", "gate", "query rank"])
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain weights", "packed"])
def test_a_fast_layer_equals_its_float64_self(options, is_packed, each_backend, monkeypatch):
    layer, double = make(**options), make(**options).double()
    if is_packed:
        for projection in layer.projections:
            projection.pack()
    batch, calls = batch_of((START, LENGTH)), []
    call = expanded.expanded_attention
    monkeypatch.setattr(expanded, "expanded_attention", lambda *a, **o: calls.append(1) or call(*a, **o))
    x_TD, cache = draw(LENGTH, D, seed=4), {"k": pages_for(batch, LATENT + ROPE, torch.float32)}
    right, _ = run(double, x_TD.double(), batch, {"k": cache["k"].double()}, "exact")
    exact, kept = run(layer, x_TD, batch, cache, "exact")
    assert not calls
    fast, left = run(layer, x_TD, batch, cache, "fast")
    assert calls and not torch.equal(fast, exact)
    assert (fast - right).abs().max() <= TOLERANCE * right.abs().max()
    assert torch.allclose(left["k"], kept["k"], rtol=1e-5, atol=1e-6)
    if each_backend == "native":  # products have one order there, so what is cached is the same
        assert torch.equal(left["k"], kept["k"])


@DTYPES
def test_short_sequences_beside_a_long_one_are_computed_as_ever(dtype, each_backend):
    if each_backend != "native":
        pytest.skip("the library's products depend on how many rows come")
    layer = make(dtype)
    for projection in layer.projections:
        projection.pack()
    batch = batch_of((300, SHORT), (START, LENGTH), (5, 1))
    x_TD, cache = draw(batch.num_tokens, D, seed=4, dtype=dtype), {"k": pages_for(batch, LATENT + ROPE, dtype)}
    (exact, kept), (fast, left) = (run(layer, x_TD, batch, cache, name) for name in ("exact", "fast"))
    is_short = torch.ones(batch.num_tokens, dtype=torch.bool)
    is_short[SHORT : SHORT + LENGTH] = False
    assert torch.equal(fast[is_short], exact[is_short]) and torch.equal(left["k"], kept["k"])
    assert not torch.equal(fast[~is_short], exact[~is_short])
    rounding = TOLERANCE if dtype == torch.float32 else 4 * BF16  # keys, values, heads and the output are rounded
    assert (fast - exact).abs().max() <= rounding * exact.abs().max()


def test_a_part_of_a_batch_has_its_rows_pages_and_windows():
    batch = Batch((3, 2, 4), (5, 0, 70), (7, 8, 9), ((1,), (2,), (3, 4)), {32: ((1,), (2,), (0, 5))})
    rows_T, part = batch.part((0, 2))
    assert rows_T.tolist() == [0, 1, 2, 5, 6, 7, 8] and batch.part((0, 2))[1] is part
    assert (part.lengths, part.starts, part.slots) == ((3, 4), (5, 70), (7, 9))
    assert (part.pages, part.window_pages) == (((1,), (3, 4)), {32: ((1,), (0, 5))})
    assert Batch.packed((1, 2)).part((1,))[1] == Batch.packed((2,))


def test_only_long_stretches_are_expanded_and_never_selected_keys():
    assert expanded.long_sequences(batch_of((0, LEAST_ROWS), (0, LEAST_ROWS - 1), (900, 1)), **DIMS) == (0,)
    wide = {**DIMS, "nope_dim": LATENT, "value_dim": LATENT}
    assert not expansion_pays(4096, 512, **wide), "as many operations, and copies besides"
    sparse = make(kind=SparseMLA, q_lora_dim=16, num_index_heads=2, index_dim=8, num_selected=64)
    batch = batch_of((0, LEAST_ROWS))
    cache = {spec.name: torch.zeros(9, *spec.shape) for spec in sparse.cache_spec().page_tensors}
    x_TD = draw(LEAST_ROWS, D, seed=4)
    assert sparse._long_sequences(batch) == () and make()._long_sequences(batch) == (0,)
    assert run(sparse, x_TD, batch, cache, "fast")[0].isfinite().all()


def test_without_a_cache_nothing_is_expanded(each_backend):
    layer, x_TD = make(), draw(LEAST_ROWS, D, seed=4)
    if each_backend == "native":
        exact, fast = (run(layer, x_TD, Batch.packed((LEAST_ROWS,)), None, name)[0] for name in ("exact", "fast"))
        assert torch.equal(exact, fast)
