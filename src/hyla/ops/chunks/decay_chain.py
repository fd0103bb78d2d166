"""The chunk path without a solve: one fixed order of operations from rows to outputs and anchors.

With S the anchor, and for the rows r of a chunk

    P_rj = <q_r, k_j>_decayed (j <= r)            o_r = since_r (S^T q_r) + sum_j P_rj v_j
    S' = decay * S + sum_j k_j v_j^T              (k or v decayed from their row to the chunk's end)

(the chunk form of linear attention with decay; arXiv 2401.04658, section 3). Only the sum over chunks is walked in
order; the products are made for a stretch of chunks at once, which changes no bit (`ops.exact.batched.bmm`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hyla.grid import CHUNK
from hyla.ops.chunks.decay_rule import DecayRule, Fold, Read, Rows
from hyla.ops.chunks.delta_chain import step_groups
from hyla.ops.chunks.plan import ChunkPlan
from hyla.ops.exact.batched import bmm


@dataclass
class ChainResult:
    o_IHCV: torch.Tensor
    anchors_IHKV: torch.Tensor | None
    """The anchor that each item read, when asked for (autograd)."""
    final_RHKV: torch.Tensor
    """The anchor after each rank's last folded chunk."""
    tails: dict[int, Rows]
    """Rows of each tail rank's last item."""


def stretches(plan: ChunkPlan, heads: int, key_dim: int, value_dim: int) -> list[tuple[range, slice]]:
    """Consecutive steps with the slice of their items, sized to stay near the cache."""
    starts = plan.step_starts()
    groups = step_groups(plan, heads * max(CHUNK * max(key_dim, value_dim, CHUNK), key_dim * value_dim))
    return [(group, slice(starts[group[0]], starts[group[-1]] + plan.step_sizes[group[-1]])) for group in groups]


def run_chain(
    plan: ChunkPlan,
    rule: DecayRule,
    q_IGCK: torch.Tensor,
    rows_of: Callable[[slice], Rows],
    anchor_RHKV: torch.Tensor,
    *,
    keep_anchors: bool = False,
    count_I: torch.Tensor | None = None,
) -> ChainResult:
    """Walk the chunks of every sequence in order, all sequences of a step at once.

    rows_of: the rows of a slice of items. anchor_RHKV: anchor of each rank before this call. count_I: rows of each item
    that exist; then chunks that a sequence leaves open are folded too, up to their last row.
    """
    items, (heads, key_dim, value_dim) = q_IGCK.shape[0], anchor_RHKV.shape[1:]
    result = ChainResult(
        o_IHCV=q_IGCK.new_empty(items, heads, CHUNK, value_dim),
        anchors_IHKV=q_IGCK.new_empty(items, heads, key_dim, value_dim) if keep_anchors else None,
        final_RHKV=anchor_RHKV.clone(),
        tails={},
    )
    closes = set(plan.closed_ranks) | (set() if count_I is None else set(plan.tail_ranks))
    for group, part in stretches(plan, heads, key_dim, value_dim):
        # Anchors are needed by the reads, and only element-wise work runs over chunks: products are made for
        # a stretch at once.
        rows = rows_of(part)
        fold = rule.fold(rows, None if count_I is None else count_I[part])
        anchors = _anchors(plan, group, part.start, fold, result.final_RHKV, closes)
        result.o_IHCV[part] = outputs(rule.read(q_IGCK[part], rows), anchors, rows["v"])
        if result.anchors_IHKV is not None:
            result.anchors_IHKV[part] = anchors
        for rank in plan.tail_ranks:
            if part.start <= plan.last_items[rank] < part.stop:
                result.tails[rank] = {name: x[plan.last_items[rank] - part.start] for name, x in rows.items()}
    return result


def outputs(read: Read, anchors_IHKV: torch.Tensor, v_IHCV: torch.Tensor) -> torch.Tensor:
    """Outputs [I, H, R, V]: what rows read from the anchor, plus what they read inside their chunk, in this order."""
    shape = (*read.q_IHRK.shape[:3], -1)
    from_anchor = bmm(read.q_IHRK.flatten(0, 1), anchors_IHKV.flatten(0, 1)).view(shape)
    # Where the rule left the decay out of q: V numbers a row to multiply instead of K.
    if read.since_IHR1 is not None:
        from_anchor = from_anchor * read.since_IHR1
    return from_anchor + bmm(read.p_IHRC.flatten(0, 1), v_IHCV.flatten(0, 1)).view(shape)


def added(fold: Fold) -> torch.Tensor:
    """What whole chunks add to their anchors, [I, H, K, V]."""
    shape = (*fold.k_IHKC.shape[:3], -1)
    return bmm(fold.k_IHKC.flatten(0, 1), fold.v_IHCV.flatten(0, 1)).view(shape)


def next_anchor(anchor: torch.Tensor, decay: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The one formula of a fold: decay * S + k v."""
    return decay * anchor + added


def _anchors(plan: ChunkPlan, group: range, first: int, fold: Fold, final_RHKV, closes: set[int]) -> torch.Tensor:
    """The anchors that a stretch's items read; `final_RHKV` is moved on past the chunks that close."""
    new = added(fold)
    anchors = torch.empty_like(new)
    decay = fold.decay.expand(new.shape[0], -1, -1, -1)
    starts = plan.step_starts()
    for step in group:
        size = plan.step_sizes[step]
        going_on = plan.step_sizes[step + 1] if step + 1 < len(plan.step_sizes) else 0
        here = slice(starts[step] - first, starts[step] - first + size)
        anchors[here] = final_RHKV[:size]
        # A sequence that ends inside its chunk leaves it open: its anchor stays.
        ranks = [rank for rank in range(size) if rank < going_on or rank in closes]
        if len(ranks) == size:
            final_RHKV[:size] = next_anchor(anchors[here], decay[here], new[here])
        elif ranks:
            pick = torch.tensor(ranks, device=new.device)
            final_RHKV[pick] = next_anchor(anchors[here][pick], decay[here][pick], new[here][pick])
    return anchors
