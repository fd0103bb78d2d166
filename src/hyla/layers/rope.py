"""Rotary position embedding (RoPE): cosine and sine tables by absolute position, and the rotation."""

from __future__ import annotations

from functools import cache

import torch

from hyla.layers.norms import RMSNorm
from hyla.layers.rope_scaling import Scaling, plain_frequencies
from hyla.ops import native
from hyla.ops.batch import Batch
from hyla.ops.exact.primitives import wide
from hyla.ops.native import kernels

TABLE_POSITIONS = 4096
"""Positions of one table page."""


class RotaryTable:
    """cos and sin of position * theta^(-2i / rotary_dim), i < rotary_dim / 2, side by side: a row per position.

    A scaling replaces the frequencies and multiplies cosines and sines by its attention factor.

    Made in pages of TABLE_POSITIONS from float64, as far as positions have been asked for, so that a position's values
    never depend on how far the table reaches. Not a buffer: it follows from the config and is never saved.
    Source: arXiv 2104.09864, section 3.2.2.
    """

    def __init__(self, rotary_dim: int, theta: float, scaling: Scaling | None = None):
        self.rotary_dim, self.theta, self.scaling = rotary_dim, theta, scaling
        self._tables: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def __call__(self, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
        """[T, rotary_dim] in dtype: cosines, then sines, of each row's position."""
        if (self, dtype) not in batch.rotary_rows:
            batch.rotary_rows[self, dtype] = self._rows(batch, dtype)
        return batch.rotary_rows[self, dtype]

    def _rows(self, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
        needed = max(batch.ends)
        key = (batch.device, dtype)
        table = self._tables.get(key)
        if table is None or table.shape[0] < needed:
            start = 0 if table is None else table.shape[0]
            pages = [self._page(first).to(*key) for first in range(start, needed, TABLE_POSITIONS)]
            table = self._tables[key] = torch.cat(pages if table is None else [table, *pages])
        return table[batch.positions_T]

    def _page(self, first: int) -> torch.Tensor:
        position = torch.arange(first, first + TABLE_POSITIONS, dtype=torch.float64)
        scaling = self.scaling
        frequencies = (plain_frequencies if scaling is None else scaling.frequencies)(self.rotary_dim, self.theta)
        angle = position[:, None] * frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1) * (1.0 if scaling is None else scaling.attention_factor)


@cache
def rotary_table(rotary_dim: int, theta: float, scaling: Scaling | None = None) -> RotaryTable:
    """The table that all layers with these numbers share."""
    return RotaryTable(rotary_dim, theta, scaling)


def rotate(x_THK: torch.Tensor, cos_sin_TR: torch.Tensor, *, interleaved: bool = False) -> torch.Tensor:
    """Rotate the first R channels of each head: channel i with i + R / 2, or (interleaved) 2i with 2i + 1; fp32 or
    float64 out, in the layout that came in.

    x: [T, H, K], K >= R; cos_sin: a `RotaryTable`'s rows in the dtype of the result.
    """
    x_THK = wide(x_THK)
    cos, sin = cos_sin_TR[:, None].chunk(2, dim=-1)
    half = cos.shape[-1]
    if interleaved:
        pairs, rest = x_THK.split([2 * half, x_THK.shape[-1] - 2 * half], dim=-1)
        even, odd = pairs[..., 0::2], pairs[..., 1::2]
        rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        return torch.cat([rotated.flatten(-2), rest], dim=-1)
    first, second, rest = x_THK.split([half, half, x_THK.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def norm_and_rotate(
    x_THK: torch.Tensor,
    norm: RMSNorm | None,
    cos_sin_TR: torch.Tensor | None,
    *,
    interleaved: bool,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Heads [T, H, K], normed and rotated where asked, in fp32 (float64 for float64), then rounded to `dtype`.

    The native kernel does in one pass what the steps do one after the other, with the same bits.
    """
    is_constant = not (torch.is_grad_enabled() and (x_THK.requires_grad or (norm and norm.weight.requires_grad)))
    if is_constant and native.handles(x_THK) and (norm is None or native.handles(norm.weight)):
        weight, eps, shift = (norm.weight, norm.eps, float(norm.zero_centered)) if norm else (None, None, 0.0)
        numbers = {"shift": shift, "interleaved": interleaved, "dtype": dtype or torch.float32}
        return kernels.norm_and_rotate(x_THK, weight, eps, cos_sin_TR, **numbers)
    x_THK = wide(x_THK)
    if norm is not None:
        x_THK = norm(x_THK)
    if cos_sin_TR is not None:
        x_THK = rotate(x_THK, cos_sin_TR, interleaved=interleaved)
    return x_THK if dtype is None else x_THK.to(dtype)
