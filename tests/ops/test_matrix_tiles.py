"""Products in the processor's matrix tiles: emulated everywhere, and beside the processor's own where it has them. And
products as 64 threads cut them."""

import ctypes
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from native_builds import DTYPES, bits, draw

from hyla.errors import BackendUnavailable
from hyla.ops import native
from hyla.ops.native import build, launching, products
from hyla.ops.native.tiles import in_tiles
from hyla.ops.weights.blocks import num_blocks, strips

AMX = next(found for found in build.BUILDS if found.name == "amx")
ROWS = (1, 2, 15, 16, 17, 31, 32, 33, 49, 130)
SHAPES = ((70, 1), (64, 31), (130, 64), (40, 257), (192, 1100))
"""Outputs and columns: fewer than a tile takes, more than a panel has, odd ones."""
MANY_THREADS = """
#include "team.h"
int64_t team_size(void) { return 64; }
void team_run(int64_t count, Work *work, void *context) { while (count--) work(context, count, 0); }
void team_ranges(int64_t count, int64_t least, RangeWork *work, void *context) {
    (void)least, work(context, 0, count, 0);
}
"""
"""Turns as they are made for 64 threads, in another order."""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> ctypes.CDLL:
    """Products with tiles in plain C, cut for many threads."""
    if not build.runnable():
        pytest.skip("no kernels for this processor")
    try:
        compiler = build.find_compiler()
    except BackendUnavailable:
        pytest.skip("no C compiler")
    own = next(found for found in build.runnable() if found is not AMX)
    sources, folder = Path(build.__file__).parent, tmp_path_factory.mktemp("tiles")
    file = folder / "emulated.so"
    (folder / "team.c").write_text(MANY_THREADS)
    files = [str(sources / f"{name}.c") for name in ("product", "tiles")]
    code = ("-include", str(Path(__file__).parent / "emulated_tiles.h"), f"-I{sources}", *files)
    command = [compiler, *build.FLAGS, "-shared", *own.flags, *code, str(folder / "team.c"), "-o", str(file), "-lm"]
    subprocess.run(command, check=True, timeout=build.SECONDS)
    return ctypes.CDLL(str(file))


@contextmanager
def use(library: ctypes.CDLL):
    """Let products be computed by these kernels."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (native, launching, products):
            patch.setattr(module, "library", lambda: library)
        yield


def stored(outputs: int, inner: int) -> list[tuple[products.Stored, torch.Tensor]]:
    """A bf16 matrix plain, in tiles and as FP8, with its numbers."""
    plain = draw(outputs, inner, seed=outputs, dtype=torch.bfloat16)
    tiles, codes = in_tiles(plain), plain.float().to(torch.float8_e4m3fn)
    scales = torch.full(num_blocks(codes.shape), 0.5)
    return [
        (products.Stored(plain, plain.shape), plain),
        (products.Stored(tiles, plain.shape, is_tiled=True), plain),
        (products.Stored(codes, codes.shape, scales=scales, strips=strips(outputs)), codes.float() * 0.5),
    ]


def as_the_manual_says(x_TD: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    """Blocks of 32 columns: the even and the odd ones have a sum each; both join, and then join the blocks before.

    Products of bf16 are exact in floats, so a sum that a product joins is a fused multiply-add.
    """
    total = torch.zeros(x_TD.shape[0], weight_OD.shape[0])
    for x_TC, weight_OC in zip(x_TD.float().split(32, 1), weight_OD.float().split(32, 1)):
        sums = [torch.zeros_like(total), torch.zeros_like(total)]
        for column in range(x_TC.shape[1]):
            sums[column % 2] = sums[column % 2] + x_TC[:, column, None] * weight_OC[None, :, column]
        total = total + (sums[0] + sums[1])
    return total


@pytest.mark.parametrize("outputs, inner", SHAPES)
def test_a_row_has_the_same_bits_whatever_comes_with_it(outputs, inner, emulated):
    x, bias = draw(ROWS[-1], inner, seed=3, dtype=torch.bfloat16), draw(outputs, seed=1)
    for weight, numbers in stored(outputs, inner):
        expected = (as_the_manual_says(x, numbers) + bias).to(torch.bfloat16)
        with use(emulated):
            assert all(torch.equal(products.product(x[:rows], weight, bias), expected[:rows]) for rows in ROWS)


def test_cuts_for_many_threads_change_no_bit(emulated):
    """A tile in two or four, and rows in blocks: fp32 rows, which need no tiles."""
    x = draw(60, 301, seed=3)
    for dtype in DTYPES:
        weight = draw(150, 301, seed=2, dtype=dtype)
        tiled = products.Stored(in_tiles(weight), weight.shape, is_tiled=True)
        counts = (1, 2, 5, 60)
        expected = [products.product(x[:rows], tiled) for rows in counts]
        with use(emulated):
            assert all(torch.equal(products.product(x[:rows], tiled), y) for rows, y in zip(counts, expected))


@pytest.mark.skipif(AMX not in build.runnable(), reason="this processor has no matrix tiles")
def test_the_processor_computes_what_is_emulated(emulated):
    own = build._load(AMX)
    for special in (False, True):
        for outputs, inner in SHAPES:
            x = draw(ROWS[-1], inner, seed=3, dtype=torch.bfloat16, special=special)
            for weight, _ in stored(outputs, inner):
                with use(emulated):
                    expected = bits(products.product(x, weight))
                with use(own):
                    got = [bits(products.product(x[:rows], weight)) for rows in ROWS]
                assert all(torch.equal(y, expected[:rows]) for rows, y in zip(ROWS, got))


def test_a_system_that_refuses_tiles_leaves_the_next_build(monkeypatch):
    class Refusing:
        def hyla_tiles_refused(self):
            return -1

    monkeypatch.setattr(build, "_found", lambda found: Refusing())
    with pytest.raises(BackendUnavailable, match="does not let this process use the processor's matrix tiles"):
        build._load(AMX)
    assert isinstance(build._load(build.BUILDS[-1]), Refusing)


def test_tiles_run_only_when_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(build, "machine", lambda: "x86_64")
    monkeypatch.setattr(build, "processor_flags", lambda: AMX.needs)
    monkeypatch.delenv(build.VARIABLE, raising=False)
    assert build.candidates()[0].name == "avx512_bf16"
    monkeypatch.setenv(build.VARIABLE, "amx")
    assert build.candidates() == (AMX,)
