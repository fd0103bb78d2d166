"""One appended row per sequence: the chunk path's operations on that row alone (see `ops.chunks.delta_chain`)."""

from __future__ import annotations

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.chunks.plan import RowPlan
from hyla.ops.exact.batched import bmm


def append_row(
    plan: RowPlan,
    a_NHC: torch.Tensor,
    p_NHC: torch.Tensor,
    kq_in_NHRK: torch.Tensor,
    v_NHV: torch.Tensor,
    beta_NH: torch.Tensor,
    cache: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Solve and store the new row of N sequences; returns outputs [N, H, V].

    a, p: the row of A (zero from its own place on) and of P (zero after it). kq_in: the row's decayed key and query,
    [N, H, 2, K]. cache: tensors "anchor", "u", "x", "t" of the layer, extended in place.
    """
    count, heads = kq_in_NHRK.shape[:2]
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    in_block_N, block_N = row_N % BLOCK, row_N // BLOCK
    # As `delta_chain._step`: one product reads the anchor for key and query.
    read = bmm(kq_in_NHRK.flatten(0, 1), cache["anchor"][slots].flatten(0, 1)).view(count, heads, 2, -1)
    rhs = beta_NH[..., None] * (v_NHV - read[:, :, 0])

    place_C = torch.arange(CHUNK, device=row_N.device)
    ap = torch.stack([a_NHC, p_NHC], dim=2)
    # Rows of the sequences stand in different blocks, so the earlier part is masked instead of cut.
    is_earlier = (place_C < (block_N * BLOCK)[:, None]).to(ap.dtype)[:, None, None]
    earlier = bmm((ap * is_earlier).flatten(0, 1), cache["u"][slots].flatten(0, 1)).view_as(read)
    x, o = rhs - earlier[:, :, 0], read[:, :, 1] + earlier[:, :, 1]

    index = block_N[:, None, None, None, None].expand(-1, heads, 2, 1, BLOCK)
    ap_block = ap.view(count, heads, 2, -1, BLOCK).gather(3, index)[:, :, :, 0]
    # This row of T from the earlier ones, which the cache keeps for the block that is open.
    t_row = -bmm(ap_block[:, :, :1].flatten(0, 1), cache["t"][slots].flatten(0, 1)).view(count, heads, BLOCK)
    t_row = t_row + (torch.arange(BLOCK, device=row_N.device) == in_block_N[:, None, None]).to(t_row.dtype)
    cache["t"][slots_N, :, in_block_N] = t_row
    cache["x"][slots_N, :, in_block_N] = x
    u = bmm(t_row.view(-1, 1, BLOCK), cache["x"][slots].flatten(0, 1)).view_as(x)
    cache["u"][slots_N, :, row_N] = u
    return o + bmm(ap_block[:, :, 1:].flatten(0, 1), _block_rows(cache["u"], plan)).view_as(o)


def _block_rows(u_SHCV: torch.Tensor, plan: RowPlan) -> torch.Tensor:
    """u of the block that each sequence's row is in, [N * H, 16, V]."""
    blocks = u_SHCV.unflatten(2, (-1, BLOCK))
    # Sequences in step with each other: the block is read where it lies when the slots follow each other.
    if plan.block is not None:
        return blocks[plan.slots, :, plan.block].flatten(0, 1)
    return blocks[plan.slots_N, :, plan.row_N // BLOCK].flatten(0, 1)
