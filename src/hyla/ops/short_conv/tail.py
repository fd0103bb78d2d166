"""The inputs before the newest multiple of 64, kept so that a snapshot can be taken there later."""

from __future__ import annotations

import torch

from hyla.ops.short_conv.plan import RING, ConvPlan


def keep_tail(x_TC: torch.Tensor, plan: ConvPlan, ring: torch.Tensor, tail: torch.Tensor) -> None:
    """Fill the tails of the sequences that pass a multiple of 64 in this call; before the ring is extended."""
    if plan.tail_from_ring is not None:
        slots, rows, places = plan.tail_from_ring
        tail[slots, places] = ring[slots, rows]
    if plan.tail_from_rows is not None:
        slots, rows, places = plan.tail_from_rows
        tail[slots, places] = x_TC[rows]


def restore_ring(ring: torch.Tensor, tail: torch.Tensor, slot: int, length: int) -> None:
    """Put a slot's tail back where the inputs before `length`, a multiple of 64, stand in its ring."""
    count = tail.shape[1]
    ring[slot, [(length - count + j) % RING for j in range(count)]] = tail[slot]
