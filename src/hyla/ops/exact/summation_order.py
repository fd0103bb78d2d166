"""Products by our own kernel, in the order of summation that the CPU library was found to use.

The library adds the products of an output in chains: `order` of them from zero, then the chains' sums in turn. Which
order holds for a weight shape is checked once per process on data that show every rounding; where none does (another
library, another instruction set), there is no kernel and callers use `ops.exact.rows`. So the kernel's bits are those
of `ops.exact.rows.linear`, and a row does not depend on others by construction.
"""

from __future__ import annotations

from functools import cache

import torch

from hyla.ops.exact import rows
from hyla.ops.exact.row_checks import check_bias, check_data
from hyla.ops.native import kernels

ORDERS = (1024, 512)
"""Chain lengths to try; an inner size below one is a single chain."""

CHECKED_ROWS = 9
TILE = 64
"""Outputs of one tile of the kernel."""


@cache
def tiles(strips: tuple[tuple[int, int, int], ...]) -> torch.Tensor:
    """int64 [N, 3]: (first output, count, row of scales) of each tile, for strips (first, last, row of scales)."""
    found = []
    for start, end, scale_row in strips:
        found += [(first, min(TILE, end - first), scale_row) for first in range(start, end, TILE)]
    return torch.tensor(found, dtype=torch.int64).view(-1, 3)


def chain_order(out_dim: int, in_dim: int, dtype: torch.dtype, has_bias: bool = False) -> int | None:
    """The order of summation for weights [out_dim, in_dim], or None where the kernel cannot repeat the library's.

    has_bias: for products to which a bias is added.
    """
    sizes = set(rows.block_sizes(out_dim, in_dim))
    found = {_block_order(size, in_dim, dtype, torch.get_num_threads(), has_bias) for size in sizes}
    return found.pop() if len(found) == 1 else None


@cache
def _block_order(out_dim: int, in_dim: int, dtype: torch.dtype, num_threads: int, has_bias: bool) -> int | None:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(20260103)
        weight_OD = check_data(out_dim, in_dim, generator, -1.0).to(dtype)
        x_RD = check_data(CHECKED_ROWS, in_dim, generator, 1.0).to(dtype)
        bias_O = check_bias(rows.linear(x_RD, weight_OD), generator) if has_bias else None
        expected, got = rows.linear(x_RD, weight_OD, bias_O), x_RD.new_empty(CHECKED_ROWS, out_dim)
        spans_13 = torch.tensor([[0, 0, CHECKED_ROWS]])
        for order in ORDERS:
            done = kernels.product(x_RD, weight_OD, None, tiles(((0, out_dim, 0),)), spans_13, order, got, bias_O)
            if done and torch.equal(got, expected):
                return order
    return None
