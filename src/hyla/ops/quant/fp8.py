"""Blockwise FP8: one byte per weight and one scale per 128 x 128 block, the last blocks of a side possibly smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

BLOCK = 128
"""Side of a block."""

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest finite float8_e4m3fn."""


def num_blocks(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the scales of a weight [..., O, D].

    >>> num_blocks((576, 7168)), num_blocks((3, 20, 200))
    ((5, 56), (3, 1, 2))
    """
    return (*shape[:-2], -(-shape[-2] // BLOCK), -(-shape[-1] // BLOCK))


def _strips(num_rows: int):
    """Slices of 128 rows."""
    return [slice(first, min(first + BLOCK, num_rows)) for first in range(0, num_rows, BLOCK)]


def _columns(scale_B: torch.Tensor, width: int) -> torch.Tensor:
    """One strip's scales, one per column."""
    return scale_B.to(torch.float32).repeat_interleave(BLOCK)[:width]


def dequantise(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """codes [..., O, D] times the scale of their block, in fp32, rounded once to dtype. scale: `num_blocks` of them."""
    whole = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    width = codes.shape[-1]
    matrices = zip(whole.reshape(-1, *whole.shape[-2:]), codes.reshape(-1, *codes.shape[-2:]), _matrices(scale))
    for out_OD, codes_OD, scale_AB in matrices:
        # Strip by strip: the fp32 product is never larger than 128 rows.
        for strip, scale_B in zip(_strips(codes.shape[-2]), scale_AB):
            out_OD[strip] = codes_OD[strip].to(torch.float32) * _columns(scale_B, width)
    return whole


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
            most_B = torch.stack([part.amax() for part in most_D.split(BLOCK)]) / FP8_MAX
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
    """[..., ceil(O / 128), ceil(D / 128)], in the dtype in which it was published."""
    dtype: torch.dtype
    """What the weight stands for: its numbers are codes times scales, rounded to this dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def __getitem__(self, expert: int) -> FP8Tensor:
        return FP8Tensor(self.codes[expert], self.scale[expert], self.dtype)

    def dense(self) -> torch.Tensor:
        """The whole weight in its dtype."""
        return dequantise(self.codes, self.scale, self.dtype)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows first to last of a matrix, in its dtype."""
        start = first // BLOCK
        scale = self.scale[start : -(-last // BLOCK)]
        # From the block's first row on, so that rows and scales keep their alignment.
        return dequantise(self.codes[start * BLOCK : last], scale, self.dtype)[first - start * BLOCK :]


@dataclass(frozen=True, eq=False)
class FP8Weight:
    """The weight of one product [sum of O, D]: matrices over one another, some or all of them FP8."""

    parts: tuple[torch.Tensor | FP8Tensor, ...]
    dtype: torch.dtype
    """Of the product."""

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def dense(self, first: int, last: int) -> torch.Tensor:
        """Rows first to last, plain, in the dtype of the product."""
        found, start = [], 0
        for part in self.parts:
            low, high = max(first - start, 0), min(last - start, part.shape[0])
            if low < high:
                rows = part.rows(low, high) if isinstance(part, FP8Tensor) else part.detach()[low:high]
                found.append(rows.to(self.dtype))
            start += part.shape[0]
        return torch.cat(found) if len(found) > 1 else found[0]
