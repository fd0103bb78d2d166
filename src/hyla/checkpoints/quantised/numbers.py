"""Codes -> numbers, in float32, a piece of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

PIECE = 1 << 20
"""Numbers that are decoded at a time."""
ALIGNED = 32
"""Rows of a piece are a multiple of this, so that it begins at a packed word."""
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of E2M1; the fourth bit is the sign."""

Codes = Callable[[int, int], torch.Tensor]
"""(first row, last row) -> codes [last - first, in] as float32."""


def pieces(rows: int, row: int) -> Iterator[tuple[int, int]]:
    """(first, last) of pieces of about PIECE numbers."""
    step = max(ALIGNED, PIECE // row // ALIGNED * ALIGNED)
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def decode_blocks(
    into: torch.Tensor,
    codes: Codes,
    scale_AB: torch.Tensor,
    *,
    zero_AB: torch.Tensor | None = None,
    block_rows: int = 1,
    block_of: torch.Tensor | None = None,
) -> None:
    """into[r, c] = (codes[r, c] - zero[a, b]) * scale[a, b] where a = r // block_rows and b = block_of[c].

    scale_AB, zero_AB: float32; one row or one column of them stands for all. block_of [in]: int64.
    """

    def spread(grid_AB: torch.Tensor, first: int, last: int) -> torch.Tensor:
        rows = grid_AB
        if grid_AB.shape[0] > 1:
            rows = grid_AB[first:last] if block_rows == 1 else grid_AB[torch.arange(first, last) // block_rows]
        return rows if rows.shape[1] == 1 or block_of is None else rows.index_select(1, block_of)

    for first, last in pieces(*into.shape):
        numbers = codes(first, last)
        if zero_AB is not None:
            numbers = numbers - spread(zero_AB, first, last)
        into[first:last].copy_(numbers * spread(scale_AB, first, last))


def block_of_columns(columns: int, block: int) -> torch.Tensor:
    """The block of each column, int64."""
    return torch.arange(columns) // block


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Unsigned codes [rows, count] of `bits` each, lowest bits first, from int32 words [rows, n]; uint8."""
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        raw = words.contiguous().view(torch.uint8)
        if bits < 8:
            raw = (raw.unsqueeze(-1) >> torch.arange(0, 8, bits, dtype=torch.uint8)) & mask
        return raw.reshape(words.shape[0], -1)[:, :count]
    wide = torch.nn.functional.pad(words.long() & 0xFFFFFFFF, (0, 1))  # codes straddle words
    starts = torch.arange(count) * bits
    pairs = wide[:, starts // 32] | (wide[:, starts // 32 + 1] << 32)
    return ((pairs >> (starts % 32)) & mask).to(torch.uint8)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `unpack` for non-negative codes [rows, count]; the last word is filled up with zeros."""
    rows, count = codes.shape
    starts = torch.arange(count) * bits
    wide = torch.zeros(rows, (count * bits + 31) // 32 + 1, dtype=torch.int64)
    shifted = codes.long() << (starts % 32)
    wide.index_add_(1, starts // 32, shifted & 0xFFFFFFFF)
    wide.index_add_(1, starts // 32 + 1, shifted >> 32)
    return wide[:, :-1].to(torch.int32)


def unpack_fp4(packed: torch.Tensor) -> torch.Tensor:
    """E2M1 numbers [rows, 2 n] from bytes [rows, n], the low half of a byte first; float32."""
    table = torch.tensor([*FP4, *(-number for number in FP4)])
    return table[torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).int()]


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2 ** (e - 127) of E8M0 bytes as float32; 255 is not a number."""
    return exponents.contiguous().view(torch.float8_e8m0fnu).float()


def is_finite(numbers: torch.Tensor) -> bool:
    """Whether all numbers are finite; a sum is much cheaper than a look at each, and mostly tells."""
    return bool(numbers.sum(dtype=torch.float32).isfinite()) or bool(numbers.isfinite().all())
