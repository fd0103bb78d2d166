"""The chunk path: one fixed order of operations from decays and dots to outputs and anchors.

With S the anchor, and for the rows r of a chunk

    P_rj = <q_r, k_j>_decayed (j <= r)            o_r = S^T q_in_r + sum_j P_rj v_j
    S' = decay * S + sum_j k_out_j v_j^T

(the chunk form of linear attention with decay; arXiv 2401.04658, section 3). Only the sum over chunks is walked in
order; the products are made for a stretch of chunks at once, which changes no bit (`ops.exact.batched.bmm`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hyla.grid import CHUNK
from hyla.ops.chunks.delta_chain import step_groups
from hyla.ops.chunks.plan import ChunkPlan
from hyla.ops.exact.batched import bmm


@dataclass
class Intra:
    """What an operator measures inside I chunks. Queries carry the output scale already."""

    p_IHCC: torch.Tensor
    """query-key products with decay, lower triangular with the diagonal."""
    q_in_IHCK: torch.Tensor
    """queries decayed from the chunk's start to their row."""
    k_out_IHKC: torch.Tensor
    """keys decayed from their row to the chunk's end, transposed."""
    decay: torch.Tensor
    """decay of the anchor over the whole chunk, broadcastable to [I, H, K, V] with [I or 1, H, 1, 1]."""


@dataclass
class ChainResult:
    o_IHCV: torch.Tensor
    anchors_IHKV: torch.Tensor | None
    """The anchor that each item read, when asked for (autograd)."""
    final_RHKV: torch.Tensor
    """The anchor after each rank's last closed chunk."""


def stretches(plan: ChunkPlan, heads: int, key_dim: int, value_dim: int) -> list[tuple[range, slice]]:
    """Consecutive steps with the slice of their items, sized to stay near the cache."""
    starts = plan.step_starts()
    groups = step_groups(plan, heads * max(CHUNK * max(key_dim, value_dim, CHUNK), key_dim * value_dim))
    return [(group, slice(starts[group[0]], starts[group[-1]] + plan.step_sizes[group[-1]])) for group in groups]


def run_chain(
    plan: ChunkPlan,
    measure: Callable[[slice], Intra],
    v_IHCV: torch.Tensor,
    anchor_RHKV: torch.Tensor,
    *,
    keep_anchors: bool = False,
) -> ChainResult:
    """Walk the chunks of every sequence in order, all sequences of a step at once.

    measure: the operator's decays and dots for a slice of items. anchor_RHKV: anchor of each rank before this call.
    """
    items, heads, _, value_dim = v_IHCV.shape
    key_dim = anchor_RHKV.shape[2]
    result = ChainResult(
        o_IHCV=torch.empty_like(v_IHCV),
        anchors_IHKV=v_IHCV.new_empty(items, heads, key_dim, value_dim) if keep_anchors else None,
        final_RHKV=anchor_RHKV.clone(),
    )
    for group, part in stretches(plan, heads, key_dim, value_dim):
        intra, v = measure(part), v_IHCV[part]
        anchors = _anchors(plan, group, part.start, intra, v, result.final_RHKV)
        read = bmm(intra.q_in_IHCK.flatten(0, 1), anchors.flatten(0, 1))
        inside = bmm(intra.p_IHCC.flatten(0, 1), v.flatten(0, 1))
        result.o_IHCV[part] = (read + inside).view_as(v)
        if keep_anchors:
            result.anchors_IHKV[part] = anchors
    return result


def _anchors(plan: ChunkPlan, group: range, first: int, intra: Intra, v_IHCV, final_RHKV) -> torch.Tensor:
    """The anchors that a stretch's items read; `final_RHKV` is moved on past the chunks that close."""
    added = bmm(intra.k_out_IHKC.flatten(0, 1), v_IHCV.flatten(0, 1)).view(*v_IHCV.shape[:2], *final_RHKV.shape[2:])
    anchors = torch.empty_like(added)
    decay = intra.decay.expand(added.shape[0], -1, -1, -1)
    starts, closes = plan.step_starts(), plan.closed_ranks
    for step in group:
        size = plan.step_sizes[step]
        going_on = plan.step_sizes[step + 1] if step + 1 < len(plan.step_sizes) else 0
        here = slice(starts[step] - first, starts[step] - first + size)
        anchors[here] = final_RHKV[:size]
        ranks = list(range(going_on)) + [rank for rank in closes if going_on <= rank < size]
        if len(ranks) == size:
            final_RHKV[:size] = next_anchor(anchors[here], decay[here], added[here])
        elif ranks:
            pick = torch.tensor(ranks, device=v_IHCV.device)
            final_RHKV[pick] = next_anchor(anchors[here][pick], decay[here][pick], added[here][pick])
    return anchors


def next_anchor(anchor: torch.Tensor, decay: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The one formula of a fold: decay * S + k_out v."""
    return decay * anchor + added
