"""Weights in tiles: made of parts that lie anywhere, and read back bit for bit."""

import pytest
import torch

from hyla.ops import native
from hyla.ops.native import products
from hyla.ops.native.tiles import in_tiles

pytestmark = pytest.mark.skipif(native.why_missing() is not None, reason="no kernels here")


def draw(*shape, dtype, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inner", [1, 5, 256, 515])
@pytest.mark.parametrize("outputs", [(64,), (10, 1, 70), (3, 130, 64)])
def test_parts_over_one_another_are_the_tiles_of_the_joined_weight(outputs, inner, dtype):
    parts = [draw(rows, inner, dtype=dtype, seed=rows) for rows in outputs]
    tiles = in_tiles(*parts)
    assert torch.equal(tiles, in_tiles(torch.cat(parts)))
    assert torch.equal(products.from_tiles(tiles, sum(outputs), inner), torch.cat(parts))
    flat = tiles.transpose(-3, -2) if dtype == torch.bfloat16 else tiles.transpose(-2, -1)
    assert not flat.reshape(flat.shape[0] * 64, -1)[sum(outputs) :].any()  # what no output is, is zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stacks_and_strided_views_are_read_where_they_are(dtype):
    whole = draw(3, 100, 301, dtype=dtype, seed=0)
    parts = whole.split([30, 70], dim=1)
    assert not parts[0].is_contiguous()
    assert torch.equal(in_tiles(*parts), in_tiles(whole))
    assert torch.equal(in_tiles(whole[1, 5:80:2, 1:]), in_tiles(whole[1, 5:80:2, 1:].contiguous()))
    assert torch.equal(in_tiles(whole.transpose(1, 2)), in_tiles(whole.transpose(1, 2).contiguous()))
