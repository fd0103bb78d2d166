"""Products, sums and running sums that are equal for a row on any device, from calls whose shapes never change.

On a device without kernels of ours nothing is known about the library: the order in which it sums may follow from how
many rows, products or outputs a call has. So here it only ever sees one shape for a weight: rows go in tiles of
`LINEAR_ROWS`, batched products in groups of `BATCH` matrices of `BATCH_ROWS` rows, filled with zeros. What is left is
that a row's place within the tile could matter. That is checked once per shape and device, on data that show every
rounding (`linear_is_proven`, `bmm_is_proven`); where it does matter, the product is a loop over the inner dimension of
element-wise multiply-adds, which are exact by IEEE 754, and a warning says so. Sums are fixed trees of element-wise
additions, running sums loops.

Slow but right. Two devices do not agree with each other: their libraries sum in different orders.
"""

from __future__ import annotations

import logging
from functools import cache

import torch

from hyla.ops.devices import prepare
from hyla.ops.exact.row_checks import adds_bias_once, check_bias, check_data, check_lock

logger = logging.getLogger("hyla.ops")

LINEAR_ROWS = 16
"""Rows of one linear product: the smallest tile of the matrix units of current devices."""

BATCH, BATCH_ROWS = 16, 64
"""Matrices of one batched product, and rows of each: one chunk, or one page of keys."""

SHIFTS = (1, 3, 8)
"""Places by which rows are moved in a proof. A row that is the same at odd and even places, across groups of four and
of eight, stands at every kind of place that a tile of a matrix unit has."""


def library_linear(x_RD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """One call of the library, [LINEAR_ROWS, D] x [O, D] (+ [O]) -> [LINEAR_ROWS, O]."""
    return torch.nn.functional.linear(x_RD, weight_OD, bias_O)


def library_bmm(a_BMK: torch.Tensor, b_BKN: torch.Tensor) -> torch.Tensor:
    """One call of the library, [BATCH, BATCH_ROWS, K] x [BATCH, K, N], both row-major."""
    return torch.bmm(a_BMK, b_BKN)


def loop_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [.., M, K] times b [.., K, N], one multiply-add after the other from K = 0 on, in fp32 at least."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    total = torch.zeros(*a.shape[:-1], b.shape[-1], dtype=dtype, device=a.device)
    for k in range(a.shape[-1]):
        # Two operations, so that no device fuses them into one rounding.
        total += a[..., k : k + 1].to(dtype) * b[..., k : k + 1, :].to(dtype)
    return total.to(a.dtype)


@cache
def linear_is_proven(out_dim: int, in_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a row of `library_linear` has the same bits at every place of its tile; checked once."""
    prepare(device)
    with check_lock, torch.no_grad():
        generator = torch.Generator().manual_seed(20260104)
        weight = check_data(out_dim, in_dim, generator, -1.0).to(device=device, dtype=dtype)
        x = check_data(LINEAR_ROWS, in_dim, generator, 1.0).to(device=device, dtype=dtype)
        expected = library_linear(x, weight)
        is_proven = all(
            torch.equal(library_linear(x.roll(shift, 0), weight), expected.roll(shift, 0)) for shift in (0, *SHIFTS)
        )
    return is_proven or _refuse(f"[{LINEAR_ROWS}, {in_dim}] x [{out_dim}, {in_dim}]", dtype, device)


@cache
def joins_bias(out_dim: int, in_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `library_linear` adds a bias of its dtype to bf16's sum before it is rounded, at every place alike."""
    prepare(device)
    with check_lock, torch.no_grad():
        generator = torch.Generator().manual_seed(20260106)
        weight = check_data(out_dim, in_dim, generator, -1.0).to(device=device, dtype=dtype)
        x = check_data(LINEAR_ROWS, in_dim, generator, 1.0).to(device=device, dtype=dtype)
        bias = check_bias(library_linear(x, weight), generator).to(dtype)
        expected = library_linear(x, weight, bias)
        is_same = all(
            torch.equal(library_linear(x.roll(shift, 0), weight, bias), expected.roll(shift, 0))
            for shift in (0, *SHIFTS)
        )
        return is_same and adds_bias_once(_with_bias_of_its_dtype, LINEAR_ROWS, out_dim, in_dim, device)


def _with_bias_of_its_dtype(x_RD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor) -> torch.Tensor:
    """Other devices' libraries take no other."""
    return library_linear(x_RD, weight_OD, bias_O.to(x_RD.dtype))


@cache
def bmm_is_proven(inner: int, columns: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a row of `library_bmm` has the same bits at every place of its matrix, in every matrix."""
    prepare(device)
    with check_lock, torch.no_grad():
        generator = torch.Generator().manual_seed(20260105)
        a = check_data(BATCH * BATCH_ROWS, inner, generator, 1.0).view(BATCH, BATCH_ROWS, inner)
        b = check_data(BATCH * columns, inner, generator, -1.0).view(BATCH, columns, inner).transpose(1, 2)
        a, b = (data.to(device=device, dtype=dtype).contiguous() for data in (a, b))
        expected = library_bmm(a, b)
        is_proven = all(
            torch.equal(library_bmm(a.roll(shift, 1), b), expected.roll(shift, 1))
            and torch.equal(library_bmm(a.roll(shift, 0), b.roll(shift, 0)), expected.roll(shift, 0))
            for shift in (0, *SHIFTS)
        )
    return is_proven or _refuse(f"[{BATCH}, {BATCH_ROWS}, {inner}] x [{BATCH}, {inner}, {columns}]", dtype, device)


def _refuse(shapes: str, dtype: torch.dtype, device: torch.device) -> bool:
    logger.warning(
        "products %s in %s on %s depend on a row's place; they are computed by a loop over the inner dimension, slowly",
        shapes,
        dtype,
        device,
    )
    return False


def linear(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + bias for rows [T, D] and a plain weight [O, D] of one dtype, and a bias [O] -> [T, O], rounded once.

    No autograd (`ops.exact.rows`). Where the library would round twice, or cannot take the bias because its dtype is
    another than the rows', the product is made in fp32.
    """
    tokens, (out_dim, in_dim) = x_TD.shape[0], weight_OD.shape
    if bias_O is not None and not (
        bias_O.dtype == x_TD.dtype == torch.bfloat16 and joins_bias(out_dim, in_dim, x_TD.dtype, x_TD.device)
    ):
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        return (linear(x_TD.to(wide), weight_OD.to(wide)) + bias_O).to(x_TD.dtype)
    if bias_O is None and not linear_is_proven(out_dim, in_dim, x_TD.dtype, x_TD.device):
        return loop_product(x_TD, weight_OD.t())
    weight_OD = weight_OD.contiguous()
    x_TD = torch.nn.functional.pad(x_TD, (0, 0, 0, -tokens % LINEAR_ROWS)).contiguous()
    tiles = [library_linear(tile, weight_OD, bias_O) for tile in x_TD.split(LINEAR_ROWS)]
    return (torch.cat(tiles) if len(tiles) > 1 else tiles[0])[:tokens]


def bmm(a_BMK: torch.Tensor, b_BKN: torch.Tensor) -> torch.Tensor:
    """[B, M, K] x [B, K, N] -> [B, M, N]; items may be expanded over B and lie in any order in memory."""
    count, rows, inner = a_BMK.shape
    columns = b_BKN.shape[2]
    if not bmm_is_proven(inner, columns, a_BMK.dtype, a_BMK.device):
        return loop_product(a_BMK, b_BKN)
    out = a_BMK.new_empty(count, rows, columns)
    for row in range(0, rows, BATCH_ROWS):
        for first in range(0, count, BATCH):
            a, b = a_BMK[first : first + BATCH, row : row + BATCH_ROWS], b_BKN[first : first + BATCH]
            spare, spare_rows = BATCH - a.shape[0], BATCH_ROWS - a.shape[1]
            if spare or spare_rows:
                a = torch.nn.functional.pad(a, (0, 0, 0, spare_rows, 0, spare))
            if spare:
                b = torch.nn.functional.pad(b, (0, 0, 0, 0, 0, spare))
            found = library_bmm(a.contiguous(), b.contiguous())
            out[first : first + BATCH, row : row + BATCH_ROWS] = found[: BATCH - spare, : BATCH_ROWS - spare_rows]
    return out


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        while x.shape[-1] > 1:
            # The first half meets the second; an odd one out meets a zero, which changes nothing.
            half = (x.shape[-1] + 1) // 2
            x = x[..., :half] + torch.nn.functional.pad(x[..., half:], (0, 2 * half - x.shape[-1]))
        return x.clone() if x.shape == ctx.shape else x

    @staticmethod
    def backward(ctx, grad):
        return grad.expand(ctx.shape)


def sum_last(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, which is kept: [.., W] -> [.., 1], a tree over halves; differentiable."""
    if x.shape[-1] == 0:
        return x.new_zeros(*x.shape[:-1], 1)
    return _Sum.apply(x)


class _RunningSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dim):
        ctx.dim = dim
        return _running(x, dim)

    @staticmethod
    def backward(ctx, grad):
        return _running(grad.flip(ctx.dim), ctx.dim).flip(ctx.dim), None


def _running(x: torch.Tensor, dim: int) -> torch.Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    parts, sums = x.unbind(dim), out.unbind(dim)
    for place, part in enumerate(parts):
        if place:
            torch.add(sums[place - 1], part, out=sums[place])
        else:
            sums[place].copy_(part)
    return out


def running_sum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Sums of x from the start of a dimension up to each place, added in order, as one appended row would."""
    return _RunningSum.apply(x, dim)
