"""From rows of a packed batch to chunks, and back."""

from __future__ import annotations

import torch

from hyla.ops.chunks.plan import ChunkPlan


def to_items(x_TH: torch.Tensor, plan: ChunkPlan) -> torch.Tensor:
    """Flat [T, H, ...] -> [I, H, 64, ...], zero where a place has no new row."""
    # One zero row more: places without a row point at it, so that nothing has to be masked afterwards.
    padded = torch.cat([x_TH, x_TH.new_zeros(1, *x_TH.shape[1:])])
    items = padded[plan.rows_IC.flatten()].view(*plan.rows_IC.shape, *x_TH.shape[1:])
    return items.transpose(1, 2).contiguous()


def from_items(x_IHC: torch.Tensor, plan: ChunkPlan) -> torch.Tensor:
    """[I, H, 64, ...] -> the rows of the plan's sequences, [rows, H, ...], in `plan.flat_rows_T` order."""
    # A gather of the places that have rows; what a walk computed for the empty ones is dropped.
    return x_IHC.transpose(1, 2).flatten(0, 1)[plan.places_T]
