"""Batched matrix products whose rows depend neither on how many rows nor on how many products there are.

As in `ops.exact.rows`: the library is called with row counts only that were compared on this machine, for this shape.
"""

from __future__ import annotations

from functools import cache

import torch

from hyla.errors import BackendUnavailable
from hyla.ops import backends, numerics
from hyla.ops.exact import portable
from hyla.ops.exact.row_checks import agrees, check_data, check_lock

BMM_ROWS, BMM_STRIDE = (2, 4, 8, 16, 24, 32, 48), 64
"""Row counts that `bmm` may use: these, and multiples of the stride."""

BMM_CHECKED = range(1, 9)
"""Multiples of the stride that are compared; `bmm` cuts longer products."""

BMM_BATCHES = (1, 2, 3, 8, 17)
"""Batch counts that are compared."""

TINY_MATRIX, TINY_SIDE = 256, 16
"""A matrix of fewer elements, or of fewer columns than this side, is padded to it: libraries multiply tiny batches by
routines of their own, chosen by B as well, and narrow ones with two rows in turn (a row's place then counts)."""

BMM_OFFSETS = (0, 1, 2, 3)
"""Each row count is compared on the last rows of the data, and so many rows before them."""


@cache
def bmm_rows(
    inner: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device,
    num_threads: int,
    is_column_major: bool = False,
) -> tuple[int, ...]:
    """The row counts M, ascending, for which products [B, M, inner] x [B, inner, columns] agree bit for bit.

    The last one is BMM_STRIDE or 2 BMM_STRIDE; its multiples agree as well. is_column_major: of the right operand; the
    two layouts are different calls. Raises BackendUnavailable when even the larger counts do not agree with each
    other, or depend on B.
    """
    with check_lock, torch.no_grad():
        counts = BMM_ROWS + tuple(BMM_STRIDE * n for n in BMM_CHECKED)
        batch = max(BMM_BATCHES)
        generator = torch.Generator().manual_seed(20260102)
        a = check_data(batch * counts[-1], inner, generator, 1.0).view(batch, counts[-1], inner)
        b = check_data(batch * columns, inner, generator, -1.0).view(batch, columns, inner).transpose(1, 2)
        a, b = (data.to(device=device, dtype=dtype) for data in (a, b))
        b = b if is_column_major else b.contiguous()
        expected = torch.bmm(a, b)

        def call(first: int, count: int) -> torch.Tensor:
            return torch.bmm(a[:, first : first + count].contiguous(), b)

        good = [n for n in counts if all(agrees(call, n, expected, offset) for offset in BMM_OFFSETS)]
        good = [n for n in good if n > 2 * BMM_STRIDE or _ignores_batch(a[:, :n].contiguous(), b, expected[:, :n])]
    for stride in (BMM_STRIDE, 2 * BMM_STRIDE):
        if set(good).issuperset(n for n in counts if n >= stride and n % stride == 0):
            return tuple(n for n in good if n <= stride)
    raise BackendUnavailable(
        f"products [B, M, {inner}] x [{inner}, {columns}] in {dtype} on {device} with {num_threads} threads depend on "
        "M or B; try another thread count"
    )


def _ignores_batch(a: torch.Tensor, b: torch.Tensor, expected: torch.Tensor) -> bool:
    places = [(size, first) for size in BMM_BATCHES for first in range(0, a.shape[0] - size + 1, max(4, size))]
    return all(
        torch.equal(torch.bmm(a[first : first + size], b[first : first + size]), expected[first : first + size])
        for size, first in places
    )


def bmm(a_BMK: torch.Tensor, b_BKN: torch.Tensor) -> torch.Tensor:
    """Batched product [B, M, K] x [B, K, N] -> [B, M, N] whose rows depend neither on M nor on B (float64 and
    `numerics` "fast": no promise).

    Items that are dense matrices are read where they lie (one matrix may be expanded over B). A row-major b (N
    contiguous) and a column-major one are different calls with different bits: keep to one. M is padded with zero rows
    to a count that was checked.
    """
    if a_BMK.dtype == torch.float64 or numerics.is_fast():
        return torch.bmm(a_BMK, b_BKN)
    if backends.is_portable(a_BMK.device):
        return portable.bmm(a_BMK, b_BKN)
    rows, inner = a_BMK.shape[1:]
    columns, most = b_BKN.shape[2], BMM_STRIDE * BMM_CHECKED[-1]
    if columns < TINY_SIDE or inner * columns < TINY_MATRIX:
        more_inner, more_columns = max(0, TINY_SIDE - inner), max(0, TINY_SIDE - columns)
        b_BKN = torch.nn.functional.pad(b_BKN, (0, more_columns, 0, more_inner))
        return bmm(torch.nn.functional.pad(a_BMK, (0, more_inner)), b_BKN)[:, :, :columns]
    if rows > most:
        return torch.cat([bmm(part, b_BKN) for part in a_BMK.split(most, dim=1)], dim=1)
    is_column_major = inner > 1 and columns > 1 and b_BKN.stride()[1:] == (1, inner)
    place = (a_BMK.dtype, a_BMK.device, torch.get_num_threads(), is_column_major)
    counts = bmm_rows(inner, columns, *place)
    if rows not in counts:
        padded = next((count for count in counts if count >= rows), -(-rows // counts[-1]) * counts[-1])
        a_BMK = torch.nn.functional.pad(a_BMK, (0, 0, 0, padded - rows))
    return torch.bmm(_dense_items(a_BMK), b_BKN if is_column_major else _dense_items(b_BKN))[:, :rows]


def _dense_items(x_BMN: torch.Tensor) -> torch.Tensor:
    """x itself if every item is a row-major matrix without gaps, wherever the items lie; else a contiguous copy."""
    return x_BMN if x_BMN.stride()[1:] == (x_BMN.shape[2], 1) else x_BMN.contiguous()
