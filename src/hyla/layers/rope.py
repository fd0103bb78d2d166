"""Rotary position embedding (RoPE): cosine and sine tables by absolute position; `ops.rotary` rotates."""

from __future__ import annotations

from functools import cache, partial

import torch

from hyla.layers.norms import RMSNorm
from hyla.layers.rope_scaling import Scaling, plain_frequencies
from hyla.ops import rotary
from hyla.ops.batch import Batch

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
        return batch.table((self, dtype), partial(self._rows, dtype=dtype))

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


def norm_and_rotate(
    x_THK: torch.Tensor,
    norm: RMSNorm | None,
    cos_sin_TR: torch.Tensor | None,
    *,
    interleaved: bool,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Heads [T, H, K], normed and rotated where asked, in fp32 (float64 for float64), then rounded to `dtype`."""
    weight, eps, zero_centered = (None, None, False) if norm is None else (norm.weight, norm.eps, norm.zero_centered)
    return rotary.norm_and_rotate(
        x_THK, weight, cos_sin_TR, eps=eps, zero_centered=zero_centered, interleaved=interleaved, dtype=dtype
    )
