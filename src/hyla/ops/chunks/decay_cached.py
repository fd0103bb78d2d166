"""New rows against a cache: prefill pieces by the chunk path, single rows by the same operations on one row."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_chain import Intra, next_anchor, run_chain
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, RowPlan
from hyla.ops.exact.batched import bmm

CACHE_NAMES = ("anchor", "k_t", "v")
"""fp32 slot tensors: anchor [H, K, V]; of the open chunk k_t [Hk, K, 64] and v [H, 64, V]."""


def fill_old(items_IHC: torch.Tensor, stored_OHC: torch.Tensor, plan: ChunkPlan) -> torch.Tensor:
    """Items [I, H, 64, W] whose first rows come from the open chunks' stored ones, [O, H, 64, W]; in place."""
    ranks = list(plan.open_ranks)
    items_IHC[ranks] = torch.where(plan.is_old_OC[:, None, :, None], stored_OHC, items_IHC[ranks])
    return items_IHC


def extend(
    plan: ChunkPlan, measure: Callable[[slice, torch.Tensor], Intra], k_THK, v_THV, batch: Batch, cache
) -> torch.Tensor:
    """Rows of the prefill sequences, continuing their open chunks; leaves anchors and open rows in the cache.

    measure: decays and dots of a slice of items, given the keys of all items [I, Hk, 64, K].
    """
    k, v = to_items(k_THK, plan), to_items(v_THV, plan)
    slots = [batch.slots[n] for n in plan.sequences]
    slots_R = batch.index(slots)
    if plan.open_ranks:
        open_slots = slots_R[list(plan.open_ranks)]
        fill_old(k, cache["k_t"][open_slots].transpose(2, 3), plan)
        fill_old(v, cache["v"][open_slots], plan)
    result = run_chain(plan, lambda part: measure(part, k), v, cache["anchor"][slots_R])
    cache["anchor"][slots_R] = result.final_RHKV
    for rank in plan.tail_ranks:
        slot, item = slots[rank], plan.last_items[rank]
        cache["k_t"][slot] = k[item].transpose(1, 2)
        cache["v"][slot] = v[item]
    return from_items(result.o_IHCV, plan)


def store_row(plan: RowPlan, k_NHK: torch.Tensor, v_NHV: torch.Tensor, cache) -> None:
    """Put the new rows in their places of the open chunks."""
    cache["k_t"][plan.slots_N, :, :, plan.row_N] = k_NHK
    cache["v"][plan.slots_N, :, plan.row_N] = v_NHV


def read_row(plan: RowPlan, q_in_NHK: torch.Tensor, p_NHC: torch.Tensor, cache) -> torch.Tensor:
    """Outputs [N, H, V] of the new rows: q_in their decayed queries, p their rows of P (zero after their own place)."""
    count, heads = p_NHC.shape[:2]
    read = bmm(q_in_NHK.flatten(0, 1)[:, None], cache["anchor"][plan.slots].flatten(0, 1))
    inside = bmm(p_NHC.flatten(0, 1)[:, None], cache["v"][plan.slots].flatten(0, 1))
    return (read + inside).view(count, heads, -1)


def dots_row(plan: RowPlan, q_NHK: torch.Tensor, cache) -> torch.Tensor:
    """Products [N, Hk, R, 64] of R queries per key head, [N, Hk, R, K], with the open chunk's keys."""
    count, key_heads = q_NHK.shape[:2]
    return bmm(q_NHK.flatten(0, 1), cache["k_t"][plan.slots].flatten(0, 1)).view(count, key_heads, -1, CHUNK)


def close(plan: RowPlan, k_out_NHKC: torch.Tensor, decay: torch.Tensor, cache) -> None:
    """Fold the full chunks of the closing sequences: k_out of those sequences, [N', H, K, 64]."""
    slots = plan.slots_N[plan.closing]
    anchor = cache["anchor"][slots]
    added = bmm(k_out_NHKC.flatten(0, 1), cache["v"][slots].flatten(0, 1)).view_as(anchor)
    cache["anchor"][slots] = next_anchor(anchor, decay, added)
