"""The CPU's own kernels: close to the other backend and to float64, and an honest choice where there is no compiler."""

import logging

import pytest
import torch
from conftest import CPU_BACKENDS

from hyla.errors import BackendUnavailable
from hyla.ops import native, primitives
from hyla.ops.native import build

RELATIVE_TOLERANCE = 1e-6
"""fp32 against float64; measured: below 3e-7."""

needs_kernels = pytest.mark.skipif("native" not in CPU_BACKENDS, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def back_to_auto():
    yield
    native.use("auto")


@needs_kernels
def test_exponentials_are_right_over_the_whole_range():
    native.use("native")
    x = torch.cat([torch.linspace(-86, 88, 200_003), torch.randn(5000) * 1e-3])
    expected = 1 / (1 + torch.exp(-x.double()))
    error = ((primitives.sigmoid(x).double() - expected) / expected).abs().max().item()
    assert error <= RELATIVE_TOLERANCE


@needs_kernels
def test_extreme_and_missing_numbers_pass_through():
    native.use("native")
    x = torch.tensor([float("-inf"), -200.0, 0.0, 200.0, float("inf"), float("nan")])
    y = primitives.sigmoid(x)
    assert y[:5].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0] and y[5].isnan()
    assert primitives.silu(x)[4] == float("inf")


@needs_kernels
@pytest.mark.parametrize("width", [1, 15, 16, 17, 33, 100])
def test_an_element_s_bits_do_not_depend_on_its_place(width):
    native.use("native")
    x = torch.randn(9, width, generator=torch.Generator().manual_seed(width))
    alone = torch.stack([primitives.silu(value.view(1)) for value in x.flatten()]).view_as(x)
    assert torch.equal(primitives.silu(x), alone)
    padded = torch.nn.functional.pad(x, (3, 5))[:, 3 : 3 + width]
    assert torch.equal(primitives.rms_norm(padded, None, eps=1e-6), primitives.rms_norm(x, None, eps=1e-6))


@needs_kernels
def test_bf16_results_are_the_fp32_ones_rounded_as_torch_rounds():
    native.use("native")
    gate, up = (torch.randn(7, 37, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (0, 1))
    rounded = primitives.swiglu(gate.float(), up.float()).bfloat16()
    assert torch.equal(primitives.swiglu(gate, up), rounded)
    normed = primitives.rms_norm(gate.float(), None, eps=1e-6).bfloat16()
    assert torch.equal(primitives.rms_norm(gate, None, eps=1e-6), normed)


def test_without_a_compiler_torch_computes_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    native.library.cache_clear()
    try:
        native.use("auto")
        with caplog.at_level(logging.WARNING):
            assert native.backend() == "torch"
        assert "no C compiler" in caplog.text
        with pytest.raises(BackendUnavailable, match="gcc"):
            native.use("native")
    finally:
        native.library.cache_clear()


@needs_kernels
def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    broken = tmp_path / "broken.c"
    broken.write_text("this is not C")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "sources", lambda: [broken])
    with pytest.raises(BackendUnavailable, match="could not compile"):
        build.load()
    assert not list((tmp_path / "cache" / "hyla").glob("*.so"))
