"""Blockwise FP8: one byte per weight and one scale per 128 x 128 block, the last blocks of a side possibly smaller."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.ops import backends
from hyla.ops.native import products
from hyla.ops.weights.blocks import FP8_BLOCK, BlockLayout, Shard, num_blocks, strips

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest finite float8_e4m3fn."""


def _strips(num_rows: int):
    """Slices of 128 rows."""
    return [slice(first, last) for first, last, _ in strips(num_rows)]


def _columns(scale_B: torch.Tensor, width: int) -> torch.Tensor:
    """The scales of one strip of blocks, repeated so that each column has its own."""
    return scale_B.to(torch.float32).repeat_interleave(FP8_BLOCK)[:width]


def dequantise(
    codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, shard: Shard | None = None
) -> torch.Tensor:
    """codes [..., O, D] times the scale of their block, in fp32, rounded once to dtype.

    scale: `num_blocks` of them; shard: of the rows, None: one. Every backend gives the same bits.
    """
    whole = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    matrices = whole.reshape(-1, *whole.shape[-2:])
    for matrix, out_OD in enumerate(matrices):
        _dequantise_rows(codes, scale, shard, matrix, 0, out_OD)
    return whole


def _dequantise_rows(codes, scale, shard: Shard | None, matrix: int, start: int, out_RD: torch.Tensor) -> None:
    """Rows from `start` on of one matrix, as many as out has."""
    blocks, stop = strips(codes.shape[-2], shard), start + out_RD.shape[0]
    if backends.uses_native(out_RD) and scale.dtype in products.SCALE_KINDS:
        products.fp8_dense(_stored(codes, scale, blocks), matrix, start, out_RD)
        return
    codes_OD, scale_AB = _matrices(codes)[matrix], _matrices(scale)[matrix]
    # Strip by strip: the fp32 product is never larger than 128 rows.
    for first, last, block in blocks:
        low, high = max(first, start), min(last, stop)
        if low < high:
            scale_D = _columns(scale_AB[block], out_RD.shape[1])
            out_RD[low - start : high - start] = codes_OD[low:high].to(torch.float32) * scale_D


def _stored(codes: torch.Tensor, scale: torch.Tensor, blocks: tuple[tuple[int, int, int], ...]) -> products.Stored:
    return products.Stored(codes.contiguous(), codes.shape, scales=scale.contiguous(), strips=blocks)


def _matrices(scale: torch.Tensor) -> torch.Tensor:
    return scale.reshape(-1, *scale.shape[-2:])


def quantise(weight: torch.Tensor, *, power_of_two: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [..., O, D] and fp32 scales such that the largest weight of a block becomes the largest code.

    power_of_two: round each scale up to a power of two ("ue8m0"). A block of zeros gets scale 1.
    """
    matrices = weight.reshape(-1, *weight.shape[-2:])
    scale = torch.ones(num_blocks(matrices.shape), dtype=torch.float32, device=weight.device)
    for matrix_OD, scale_AB in zip(matrices, scale):
        for strip, scale_B in zip(_strips(matrix_OD.shape[0]), scale_AB):
            most_D = matrix_OD[strip].abs().amax(0).to(torch.float32)
            most_B = torch.stack([part.amax() for part in most_D.split(FP8_BLOCK)]) / FP8_MAX
            most_B = torch.exp2(torch.ceil(torch.log2(most_B))) if power_of_two else most_B
            scale_B.copy_(torch.where(most_B > 0, most_B, scale_B))
    scale = scale.reshape(num_blocks(weight.shape))
    return quantise_with(weight, scale), scale


def quantise_with(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes of a weight for given scales. Recovers the codes of a dequantised weight: 8 bits show which of 4 it had."""
    codes = torch.empty(weight.shape, dtype=FP8, device=weight.device)
    matrices = zip(codes.reshape(-1, *codes.shape[-2:]), weight.reshape(-1, *weight.shape[-2:]), _matrices(scale))
    for out_OD, weight_OD, scale_AB in matrices:
        for strip, scale_B in zip(_strips(weight.shape[-2]), scale_AB):
            by_D = _columns(scale_B, weight.shape[-1])
            scaled = weight_OD[strip].to(torch.float32) / torch.where(by_D > 0, by_D, 1.0)
            out_OD[strip] = scaled.clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return codes


@dataclass(frozen=True, eq=False)
class FP8Tensor:
    """A stored weight [..., O, D] (leading dimensions: experts): float8_e4m3fn codes and the scales of their blocks."""

    codes: torch.Tensor
    scale: torch.Tensor
    """[..., blocks down, ceil(D / 128)], in the dtype in which it was published; ceil(O / 128) down without shards."""
    dtype: torch.dtype
    """What the weight stands for: its numbers are codes times scales, rounded to this dtype."""
    shard: Shard | None = None
    """The shards of the rows of a matrix; None: it is one, whose blocks begin at the first row."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def layout(self) -> BlockLayout:
        """Where its blocks lie."""
        return BlockLayout(self.shape, self.shard)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def __getitem__(self, expert: int) -> FP8Tensor:
        return FP8Tensor(self.codes[expert], self.scale[expert], self.dtype, self.shard)

    def dense(self) -> torch.Tensor:
        """The whole weight in its dtype."""
        return dequantise(self.codes, self.scale, self.dtype, self.shard)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows first to last of a matrix, in its dtype."""
        out_RD = torch.empty(last - first, self.codes.shape[1], dtype=self.dtype, device=self.codes.device)
        _dequantise_rows(self.codes, self.scale, self.shard, 0, first, out_RD)
        return out_RD

    def stored(self) -> products.Stored:
        """As the CPU's kernel reads it."""
        return _stored(self.codes, self.scale, self.layout.strips)

    def cut_rows(self, first: int, last: int) -> FP8Tensor:
        """Rows first to last alone, as FP8; views."""
        layout, scales = self.layout.rows(first, last)
        return FP8Tensor(self.codes[..., first:last, :], self.scale[..., scales, :], self.dtype, layout.shard)

    def cut_columns(self, first: int, last: int) -> FP8Tensor:
        """Columns first to last alone, as FP8; views."""
        layout, scales = self.layout.columns(first, last)
        return FP8Tensor(self.codes[..., first:last], self.scale[..., scales], self.dtype, layout.shard)
