"""The CPU's own kernels: close to the other backend and to float64, and an honest choice where there is no compiler."""

import logging

import pytest
import torch
from conftest import CPU_BACKENDS
from test_attention import GQA, MLA, SCALE, Served, inputs, whole
from test_attention import TOLERANCE as ATTENTION_TOLERANCE

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends, gated_delta, kda, native
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.native import build

RELATIVE_TOLERANCE = 1e-6
"""fp32 against float64; measured: below 3e-7."""

needs_kernels = pytest.mark.skipif("native" not in CPU_BACKENDS, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def back_to_auto():
    yield
    backends.use("auto")


@needs_kernels
def test_exponentials_are_right_over_the_whole_range():
    backends.use("native")
    x = torch.cat([torch.linspace(-86, 88, 200_003), torch.randn(5000) * 1e-3])
    expected = 1 / (1 + torch.exp(-x.double()))
    error = ((primitives.sigmoid(x).double() - expected) / expected).abs().max().item()
    assert error <= RELATIVE_TOLERANCE


@needs_kernels
def test_extreme_and_missing_numbers_pass_through():
    backends.use("native")
    x = torch.tensor([float("-inf"), -200.0, 0.0, 200.0, float("inf"), float("nan")])
    y = primitives.sigmoid(x)
    assert y[:5].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0] and y[5].isnan()
    assert primitives.silu(x)[4] == float("inf")


@needs_kernels
@pytest.mark.parametrize("width", [1, 15, 16, 17, 33, 100])
def test_an_element_s_bits_do_not_depend_on_its_place(width):
    backends.use("native")
    x = torch.randn(9, width, generator=torch.Generator().manual_seed(width))
    alone = torch.stack([primitives.silu(value.view(1)) for value in x.flatten()]).view_as(x)
    assert torch.equal(primitives.silu(x), alone)
    padded = torch.nn.functional.pad(x, (3, 5))[:, 3 : 3 + width]
    assert torch.equal(primitives.rms_norm(padded, None, eps=1e-6), primitives.rms_norm(x, None, eps=1e-6))


@needs_kernels
def test_bf16_results_are_the_fp32_ones_rounded_as_torch_rounds():
    backends.use("native")
    gate, up = (torch.randn(7, 37, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (0, 1))
    rounded = primitives.swiglu(gate.float(), up.float()).bfloat16()
    assert torch.equal(primitives.swiglu(gate, up), rounded)
    normed = primitives.rms_norm(gate.float(), None, eps=1e-6).bfloat16()
    assert torch.equal(primitives.rms_norm(gate, None, eps=1e-6), normed)


def forget_the_library():
    native.forget()
    backends._warn.cache_clear()  # said once a process, and this may not be the first time


def test_without_a_compiler_torch_computes_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    forget_the_library()
    try:
        backends.use("auto")
        with caplog.at_level(logging.WARNING):
            primitives.silu(torch.zeros(3))
            primitives.swiglu(torch.zeros(3), torch.zeros(3))
        assert backends.on(torch.device("cpu")) == "torch"
        assert caplog.text.count("no C compiler") == 1
        with pytest.raises(BackendUnavailable, match="gcc"):
            backends.use("native")
    finally:
        forget_the_library()


@needs_kernels
def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    broken = tmp_path / "broken.c"
    broken.write_text("this is not C")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "sources", lambda: [broken])
    with pytest.raises(BackendUnavailable, match="could not compile"):
        build.load()
    assert not list((tmp_path / "cache" / "hyla").glob("*.so"))


@needs_kernels
@pytest.mark.parametrize("kind", ["gated_delta", "kda"])
def test_wide_heads_decode_to_the_bits_of_the_whole(kind):
    """Heads of 128 value channels and more take loops of their own when one row comes alone."""
    backends.use("native")
    heads, key_dim, value_dim, tokens = 2, 24, 8 * 16 + 20, 70
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(tokens, heads, key_dim, generator=generator) / 5 for _ in range(2))
    v = torch.randn(tokens, heads, value_dim, generator=generator)
    beta = torch.rand(tokens, heads, generator=generator)
    if kind == "kda":
        operator, decay = kda.kda, -torch.rand(tokens, heads, key_dim, generator=generator)
        specs = kda.cache_tensors(num_heads=heads, key_dim=key_dim, value_dim=value_dim)
    else:
        operator, decay = gated_delta.gated_delta, -torch.rand(tokens, heads, generator=generator)
        sizes = {"key_dim": key_dim, "value_dim": value_dim}
        specs = gated_delta.cache_tensors(num_key_heads=heads, num_value_heads=heads, **sizes)
    cache = {name: torch.zeros(2, *shape, dtype=dtype) for name, shape, dtype, _ in specs}
    inputs = (q, k, v, decay, beta)
    whole = operator(*inputs, batch=Batch.packed([tokens]), scale=0.5)
    for t in range(tokens):
        batch = Batch((1,), (t,), (1,), ((),))
        row = operator(*(x[t : t + 1] for x in inputs), batch=batch, cache=cache, scale=0.5)
        assert torch.equal(row[0], whole[t])


@needs_kernels
@pytest.mark.parametrize("window", [None, 1200], ids=["all", "window"])
@pytest.mark.parametrize("form", [GQA, MLA], ids=["gqa", "mla"])
def test_long_contexts_have_the_same_bits_for_every_number_of_threads(form, window):
    """Several superblocks of keys, which threads take side by side when there are few rows."""
    backends.use("native")
    length = 2200
    data = inputs(form, length, torch.bfloat16)
    expected = whole(form, data, (length,), window=window)
    wide = [None if x is None else x.double() for x in data]
    right = last_rows(form, wide, range(length - 3, length), window)
    assert (expected[length - 3 :] - right).abs().max() <= ATTENTION_TOLERANCE * right.abs().max()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            served = Served(form, data, (length,), window=window)
            for rows in (2100, 1, 2, 96, 1):
                served.step({0: rows})
            assert torch.equal(served.out, expected)
    finally:
        torch.set_num_threads(threads)


def last_rows(form, data, rows, window):
    """Rows of the reference, alone."""
    heads, groups, _, value_dim = form
    q_THK, k_TGK, v_TGV = data
    v_TGV = k_TGK[..., :value_dim] if v_TGV is None else v_TGV
    outputs = []
    for t in rows:
        seen = slice(0 if window is None else max(0, t - window + 1), t + 1)
        k_SHK, v_SHV = (x[seen].repeat_interleave(heads // groups, 1) for x in (k_TGK, v_TGV))
        weights_HS = (torch.einsum("hk,shk->hs", q_THK[t], k_SHK) * SCALE).softmax(-1)
        outputs.append(torch.einsum("hs,shv->hv", weights_HS, v_SHV))
    return torch.stack(outputs)


@needs_kernels
def test_what_was_never_written_is_never_read():
    backends.use("native")
    data = inputs(GQA, 70)
    served = Served(GQA, data, (70,))
    for pages in (served.cache.k_pages, served.cache.v_pages):
        pages.fill_(torch.nan)
    for rows in (3, 60, 1, 6):
        served.step({0: rows})
    assert torch.equal(served.out, whole(GQA, data, (70,)))


@needs_kernels
def test_pages_outside_the_pool_are_named():
    backends.use("native")
    data = inputs(GQA, 70)
    served = Served(GQA, data, (70,))
    served.pages = [(1, 7)]
    with pytest.raises(ConfigError, match="has page 7, and the cache pages below 3"):
        served.step({0: 70})
