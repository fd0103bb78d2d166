"""Matrix products whose rows do not depend on how many rows there are.

A library picks another kernel, with another order of summation, for another number of rows. So Hyla only ever calls
it with a few row counts (buckets), checks once per weight shape, machine and thread count which of them give the same
bits, and uses those: a row then has one result, whether it came alone or among 4,096 others. The set of calls is
finite and every one of them has been compared; nothing is assumed about the library.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from hyla.errors import BackendUnavailable

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)
"""Row counts that `linear` may use. The largest is the reference of the comparison."""

TILE_ROWS = (8, 16, 32, 64)
"""Candidate row tiles of `bmm`: every batched product has a multiple of the tile as its row count."""


def _linear_once(x_RD: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One library call. On the CPU always oneDNN, so that packed and plain weights give the same bits."""
    if x_RD.device.type == "cpu" and x_RD.dtype in (torch.float32, torch.bfloat16):
        return torch.ops.mkldnn._linear_pointwise(x_RD, weight, None, "none", [], "")
    return torch.nn.functional.linear(x_RD, weight)


def pack(weight_OD: torch.Tensor) -> torch.Tensor:
    """The weight in the CPU library's own layout (same shape, opaque); other devices: unchanged. Undo: `unpack`."""
    if weight_OD.device.type == "cpu" and weight_OD.dtype in (torch.float32, torch.bfloat16):
        return torch.ops.mkldnn._reorder_linear_weight(weight_OD.detach().contiguous(), 1)
    return weight_OD.detach()


def unpack(weight_OD: torch.Tensor) -> torch.Tensor:
    """The plain layout of a packed weight; exact."""
    return weight_OD.to_dense() if weight_OD.is_mkldnn else weight_OD


@lru_cache(maxsize=None)
def row_buckets(out_dim: int, in_dim: int, dtype: torch.dtype, device: str, num_threads: int) -> tuple[int, ...]:
    """The row counts whose rows equal, bit for bit, those of the largest count, for a weight [out_dim, in_dim].

    Checked with random data, packed and plain. float64 (an oracle's dtype) is not checked: it has no promise.
    """
    if dtype == torch.float64:
        return ROW_BUCKETS
    generator = torch.Generator().manual_seed(20260101)
    weight = torch.randn(out_dim, in_dim, generator=generator).to(device=device, dtype=dtype)
    x = torch.randn(ROW_BUCKETS[-1], in_dim, generator=generator).to(device=device, dtype=dtype)
    layouts = [weight, pack(weight)]
    expected = _linear_once(x, weight)
    return tuple(
        rows
        for rows in ROW_BUCKETS
        if all(torch.equal(_linear_once(x[:rows].contiguous(), layout), expected[:rows]) for layout in layouts)
    )


def split_rows(num_rows: int, buckets: tuple[int, ...]) -> list[int]:
    """Bucket sizes that cover num_rows in order; the last may reach past the end (padding).

    >>> split_rows(300, (1, 64, 256, 512))
    [256, 64]
    """
    sizes = []
    while num_rows > 0:
        above = next((size for size in buckets if size >= num_rows), buckets[-1])
        below = max((size for size in buckets if size <= num_rows), default=above)
        size = above if above <= num_rows * 3 // 2 or below * 4 < num_rows else below
        sizes.append(size)
        num_rows -= size
    return sizes


def _linear_rows(x_TD: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    out_dim, in_dim = weight.shape
    buckets = row_buckets(out_dim, in_dim, x_TD.dtype, str(x_TD.device), torch.get_num_threads())
    num_rows = x_TD.shape[0]
    if num_rows in buckets:
        return _linear_once(x_TD.contiguous(), weight)
    parts, first = [], 0
    for size in split_rows(num_rows, buckets):
        rows = x_TD[first : first + size]
        if rows.shape[0] < size:
            rows = torch.cat([rows, rows.new_zeros(size - rows.shape[0], in_dim)])
        parts.append(_linear_once(rows.contiguous(), weight)[: num_rows - first])
        first += size
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD, weight):
        ctx.save_for_backward(x_TD, weight)
        return _linear_rows(x_TD, weight)

    @staticmethod
    def backward(ctx, grad_TO):
        x_TD, weight = ctx.saved_tensors
        grad_x = grad_TO @ weight if ctx.needs_input_grad[0] else None
        grad_weight = grad_TO.t() @ x_TD if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def linear(x_TD: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    """x W^T for rows x [T, D] and a weight [O, D] of the same dtype, plain or packed; returns [T, O] in that dtype.

    Exactness: a row's bits do not depend on T, on the other rows, on packing, or on autograd.
    Raises BackendUnavailable when no gradient can be taken (packed weights are for inference).
    """
    if x_TD.shape[0] == 0:
        return x_TD.new_zeros(0, weight_OD.shape[0])
    if torch.is_grad_enabled() and (x_TD.requires_grad or weight_OD.requires_grad):
        if weight_OD.is_mkldnn:
            raise BackendUnavailable("packed weights have no gradient; call model.unpack() before training")
        return _Linear.apply(x_TD, weight_OD)
    return _linear_rows(x_TD, weight_OD)


@lru_cache(maxsize=None)
def row_tile(inner: int, columns: int, dtype: torch.dtype, device: str, num_threads: int) -> int:
    """The smallest row tile for which batched products [B, M, inner] x [B, inner, columns] do not depend on M or B.

    Raises BackendUnavailable when even the largest tile fails on this machine.
    """
    if dtype == torch.float64:
        return TILE_ROWS[0]
    generator = torch.Generator().manual_seed(20260102)
    a = torch.randn(33, 512, inner, generator=generator).to(device=device, dtype=dtype)
    b = torch.randn(33, inner, columns, generator=generator).to(device=device, dtype=dtype)
    expected = torch.bmm(a, b)
    for tile in TILE_ROWS:
        counts = [rows for rows in (tile, 2 * tile, 3 * tile, 64, 128, 256, 320) if rows % tile == 0]
        same = all(torch.equal(torch.bmm(a[:, :rows].contiguous(), b), expected[:, :rows]) for rows in counts)
        same = same and all(
            torch.equal(torch.bmm(a[:n, :rows].contiguous(), b[:n]), expected[:n, :rows])
            for n in (1, 2, 3, 8, 32)
            for rows in (tile, 64)
        )
        if same:
            return tile
    raise BackendUnavailable(
        f"no row tile up to {TILE_ROWS[-1]} makes [.., M, {inner}] x [{inner}, {columns}] in {dtype} on {device} "
        f"with {num_threads} threads independent of M; try another thread count"
    )


def bmm(a_BMK: torch.Tensor, b_BKN: torch.Tensor) -> torch.Tensor:
    """Batched product [B, M, K] x [B, K, N] -> [B, M, N] whose rows depend neither on M nor on B.

    b must be row-major (N contiguous): pass keys transposed. M is padded to the machine's row tile with zero rows.
    """
    rows, inner = a_BMK.shape[1:]
    tile = row_tile(inner, b_BKN.shape[2], a_BMK.dtype, str(a_BMK.device), torch.get_num_threads())
    extra = -rows % tile
    if extra:
        a_BMK = torch.nn.functional.pad(a_BMK, (0, 0, 0, extra))
    out = torch.bmm(a_BMK.contiguous(), b_BKN.contiguous())
    return out[:, :rows] if extra else out
