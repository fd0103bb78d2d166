"""One appended row per sequence: the chunk path's operations on that row alone (see `ops.delta.chain`)."""

from __future__ import annotations

import torch

from hyla.ops.batch import BLOCK, CHUNK
from hyla.ops.delta.plan import RowPlan
from hyla.ops.rows import bmm


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
    count, heads, _, key_dim = kq_in_NHRK.shape
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    in_block_N, block_N = row_N % BLOCK, row_N // BLOCK
    read = bmm(kq_in_NHRK.flatten(0, 1), cache["anchor"][slots].flatten(0, 1)).view(count, heads, 2, -1)
    rhs = beta_NH[..., None] * (v_NHV - read[:, :, 0])

    place_C = torch.arange(CHUNK, device=row_N.device)
    before_N1C = place_C < (block_N * BLOCK)[:, None, None]
    rows_u = cache["u"][slots].flatten(0, 1)
    x = rhs - bmm((a_NHC * before_N1C).view(-1, 1, CHUNK), rows_u).view_as(rhs)

    index = block_N[:, None, None, None].expand(-1, heads, 1, BLOCK)
    a_block = a_NHC.view(count, heads, -1, BLOCK).gather(2, index)
    t_row = -bmm(a_block.flatten(0, 1), cache["t"][slots].flatten(0, 1)).view(count, heads, BLOCK)
    t_row = t_row + (torch.arange(BLOCK, device=row_N.device) == in_block_N[:, None, None]).to(t_row.dtype)
    cache["t"][slots_N, :, in_block_N] = t_row
    cache["x"][slots_N, :, in_block_N] = x
    u = bmm(t_row.view(-1, 1, BLOCK), cache["x"][slots].flatten(0, 1)).view_as(x)
    cache["u"][slots_N, :, row_N] = u
    rows_u = cache["u"][slots].flatten(0, 1)
    return read[:, :, 1] + bmm(p_NHC.view(-1, 1, CHUNK), rows_u).view_as(u)
