"""The chunk path of the delta rules: one fixed order of operations from decays and dots to outputs and anchors.

With S the anchor, and for the rows r of a chunk

    A_rj = beta_r <k_r, k_j>_decayed (j < r)      P_rj = <q_r, k_j>_decayed (j <= r)
    rhs_r = beta_r (v_r - S^T k_in_r)             (I + A) u = rhs
    o_r = S^T q_in_r + sum_j P_rj u_j             S' = decay * S + sum_j k_out_j u_j^T

(arXiv 2412.06464, eqs. 8-10; arXiv 2510.26692, eqs. 3-9; u is their U - W S). The solve goes by blocks of 16 rows:
x_b = rhs_b - A_{b,<b} u_{<b};  u_b = T_b x_b;  row i of T_b = e_i - sum_{j<i} A_ij (row j of T_b), and outputs in the
same two parts, P_{b,<b} u_{<b} and P_bb u_b, so that an appended row reads the earlier u once.
Each row depends on earlier rows only, so an appended row (`ops.chunks.delta_row`) repeats these operations on itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.chunks.plan import ChunkPlan
from hyla.ops.exact.batched import bmm

GROUP_ELEMENTS = 1 << 20
"""Elements of one item group's largest temporaries: time is walked in stretches that stay near the cache."""


@dataclass
class Intra:
    """What a delta rule measures inside chunks; I items. Queries carry the output scale already."""

    a_IHCC: torch.Tensor
    """beta-weighted key-key products, strictly lower triangular."""
    p_IHCC: torch.Tensor
    """query-key products, lower triangular with the diagonal."""
    k_in_IHCK: torch.Tensor
    """keys decayed from the chunk's start to their row (inclusive)."""
    q_in_IHCK: torch.Tensor
    k_out_IHKC: torch.Tensor
    """keys decayed from their row to the chunk's end, transposed."""
    decay_IHK1: torch.Tensor
    """decay of the anchor over the whole chunk, [I, H, K or 1, 1]."""
    rows: dict[str, torch.Tensor]
    """The operator's own rows by cache name, [I, H, ...], of which the open chunks' are kept."""


@dataclass
class OldRows:
    """Rows of open chunks that are already in the cache, for the ranks `plan.open_ranks` (O of them)."""

    u_OHCV: torch.Tensor
    x_OHBV: torch.Tensor
    t_OHBB: torch.Tensor
    """T of the block that holds the last old row."""


@dataclass
class ChainResult:
    o_IHCV: torch.Tensor
    u_IHCV: torch.Tensor
    x_IHCV: torch.Tensor
    t_IHBB: torch.Tensor
    """[I, H, 4, 16, 16]."""
    anchors_IHKV: torch.Tensor | None
    """The anchor that each item read, when asked for (autograd)."""
    final_RHKV: torch.Tensor
    """The anchor after each rank's last folded chunk."""
    tails: dict[int, dict[str, torch.Tensor]]
    """`Intra.rows` of each tail rank's last item."""


def diagonal_blocks(a_IHCC: torch.Tensor) -> torch.Tensor:
    """[I, H, 64, 64] -> its four diagonal blocks, [I, H, 4, 16, 16]."""
    blocks = a_IHCC.unflatten(2, (-1, BLOCK)).unflatten(4, (-1, BLOCK))
    return torch.stack([blocks[:, :, b, :, b] for b in range(CHUNK // BLOCK)], dim=2)


def inverse_blocks(a_IHCC: torch.Tensor, old: tuple[OldRows, ChunkPlan] | None = None):
    """T_b = (I + A_bb)^-1 of the four diagonal blocks, row by row: [I, H, 4, 16, 16].

    With `old`, the open chunks' rows that are in the cache are taken from there.
    """
    a = diagonal_blocks(a_IHCC)
    t = torch.zeros_like(a)
    flat_a, flat_t = a.view(-1, BLOCK, BLOCK), t.view(-1, BLOCK, BLOCK)
    # Row by row, and not by a library's triangular solve: an appended row must be able to do the same for itself.
    for i in range(BLOCK):
        if i:
            flat_t[:, i] = -bmm(flat_a[:, i : i + 1], flat_t)[:, 0]
        flat_t[:, i, i] += 1.0
        # A stored row of T is never made again: its A came from keys that are not in this call.
        if old is not None:
            # Of any ranks: between two sequences with open chunks there may be one that begins a chunk.
            stored, plan = old
            ranks = list(plan.open_ranks)
            is_old = plan.is_old_OC.view(len(ranks), 1, -1, BLOCK)[..., i, None]
            t[ranks, :, :, i] = torch.where(is_old, stored.t_OHBB[:, :, None, i], t[ranks, :, :, i])
    return t


def without_diagonal_blocks(a_IHCC: torch.Tensor) -> torch.Tensor:
    """A with its diagonal 16x16 blocks set to zero."""
    block = torch.arange(CHUNK, device=a_IHCC.device) // BLOCK
    # A product with exact zeros, so that the earlier blocks' part has one shape wherever a row stands.
    return a_IHCC * (block[:, None] > block[None, :])


def step_groups(plan: ChunkPlan, elements_per_item: int) -> list[range]:
    """Consecutive steps whose items together stay within GROUP_ELEMENTS (at least one step each)."""
    groups, first, total = [], 0, 0
    for step, size in enumerate(plan.step_sizes):
        # One step is never cut: its sequences go on together.
        if step > first and (total + size) * elements_per_item > GROUP_ELEMENTS:
            groups.append(range(first, step))
            first, total = step, 0
        total += size
    groups.append(range(first, len(plan.step_sizes)))
    return groups


def run_chain(
    plan: ChunkPlan,
    measure: Callable[[slice], Intra],
    v_IHCV: torch.Tensor,
    beta_IHC: torch.Tensor,
    anchor_RHKV: torch.Tensor,
    *,
    old: OldRows | None = None,
    keep_anchors: bool = False,
    fold_tails: bool = False,
) -> ChainResult:
    """Walk the chunks of every sequence in order, all sequences of a step at once.

    measure: the operator's own decays and dots for a slice of items. anchor_RHKV: anchor of each rank before this call.
    fold_tails: chunks that a sequence leaves open are folded too. Their missing rows have no decay, key and beta, so
    the result is the state after the sequence's last row.
    """
    items, heads, _, value_dim = v_IHCV.shape
    key_dim = anchor_RHKV.shape[2]
    result = ChainResult(
        o_IHCV=torch.empty_like(v_IHCV),
        u_IHCV=torch.empty_like(v_IHCV),
        x_IHCV=torch.empty_like(v_IHCV),
        t_IHBB=v_IHCV.new_empty(items, heads, CHUNK // BLOCK, BLOCK, BLOCK),
        anchors_IHKV=v_IHCV.new_empty(items, heads, key_dim, value_dim) if keep_anchors else None,
        final_RHKV=anchor_RHKV.clone(),
        tails={},
    )
    starts = plan.step_starts()
    closes = set(plan.closed_ranks) | (set(plan.tail_ranks) if fold_tails else set())
    for group in step_groups(plan, heads * CHUNK * max(2 * key_dim, CHUNK)):
        first = starts[group[0]]
        last = starts[group[-1]] + plan.step_sizes[group[-1]]
        # What is inside chunks does not depend on anchors: it is measured for the whole stretch before the
        # walk over it.
        intra = measure(slice(first, last))
        for rank in plan.tail_ranks:
            item = plan.last_items[rank] - first
            if 0 <= item < last - first:
                result.tails[rank] = {name: row[item] for name, row in intra.rows.items()}
        from_old = (old, plan) if old is not None and group[0] == 0 else None
        result.t_IHBB[first:last] = inverse_blocks(intra.a_IHCC, from_old)
        ap_off = torch.cat([without_diagonal_blocks(intra.a_IHCC), without_diagonal_blocks(intra.p_IHCC)], dim=-1)
        p_diagonal = diagonal_blocks(intra.p_IHCC)
        kq_in = torch.cat([intra.k_in_IHCK, intra.q_in_IHCK], dim=2)
        for step in group:
            size, start = plan.step_sizes[step], starts[step]
            here, local = slice(start, start + size), slice(start - first, start - first + size)
            anchor = result.final_RHKV[:size]
            if result.anchors_IHKV is not None:
                result.anchors_IHKV[here] = anchor
            old_here = (old, plan) if old is not None and step == 0 else None
            parts = (kq_in[local], ap_off[local], p_diagonal[local], v_IHCV[here], beta_IHC[here])
            _step(result, here, anchor, parts, old_here)
            _fold(result, plan, step, intra, local, closes)
    return result


def _step(result, here, anchor, parts, old_here) -> None:
    """Solve one chunk of every active sequence: fills x, u and o."""
    kq_in, ap_off, p_diagonal, v, beta = parts
    size, heads = anchor.shape[:2]
    # Keys and queries read the anchor in one product: it is the largest thing that a row reads.
    read = bmm(kq_in.flatten(0, 1), anchor.flatten(0, 1)).view(size, heads, 2 * CHUNK, -1)
    rhs = beta[..., None] * (v - read[:, :, :CHUNK])
    u = torch.zeros_like(v)
    if old_here is not None:
        old, plan = old_here
        ranks = list(plan.open_ranks)
        u[ranks] = torch.where(plan.is_old_OC[:, None, :, None], old.u_OHCV, u[ranks])
    flat_u = u.flatten(0, 1)
    t = result.t_IHBB[here]
    for b in range(CHUNK // BLOCK):
        block = slice(b * BLOCK, (b + 1) * BLOCK)
        x, o = rhs[:, :, block], read[:, :, CHUNK + b * BLOCK : CHUNK + (b + 1) * BLOCK]
        # The product runs over all 64 places, those of later blocks being zeros in A and P: one shape,
        # whatever the block.
        if b:
            rows = torch.cat(ap_off[:, :, block].split(CHUNK, dim=-1), dim=2)
            earlier = bmm(rows.flatten(0, 1), flat_u).view(size, heads, 2 * BLOCK, -1)
            x, o = x - earlier[:, :, :BLOCK], o + earlier[:, :, BLOCK:]
        if old_here is not None:
            is_old = plan.is_old_OC[:, None, block, None]
            # Old rows keep the x and u that they got when they came: only the new ones are solved.
            x = x.contiguous()
            x[ranks] = torch.where(is_old, old.x_OHBV, x[ranks])
        solved = bmm(t[:, :, b].flatten(0, 1), x.flatten(0, 1)).view(size, heads, BLOCK, -1)
        if old_here is not None:
            solved[ranks] = torch.where(is_old, old.u_OHCV[:, :, block], solved[ranks])
        u[:, :, block] = solved
        result.x_IHCV[here, :, block] = x
        inside = bmm(p_diagonal[:, :, b].flatten(0, 1), solved.flatten(0, 1)).view_as(solved)
        result.o_IHCV[here, :, block] = o + inside
    result.u_IHCV[here] = u


def fold(anchor_BKV: torch.Tensor, decay_BK1: torch.Tensor, k_out_BKC: torch.Tensor, u_BCV: torch.Tensor):
    """The next anchor of B closed chunks: decay * S + k_out u."""
    return decay_BK1 * anchor_BKV + bmm(k_out_BKC, u_BCV)


def _fold(result, plan, step, intra, local, closes) -> None:
    """Fold the chunks that this step closes: all but the tails of sequences that end here."""
    size = plan.step_sizes[step]
    going_on = plan.step_sizes[step + 1] if step + 1 < len(plan.step_sizes) else 0
    ranks = list(range(going_on)) + [rank for rank in range(going_on, size) if rank in closes]
    if not ranks:
        return
    start = plan.step_starts()[step]
    u = result.u_IHCV[start : start + size]
    # All of a step's chunks close but for sequences that end inside theirs: then the fold is in place, without a
    # gather.
    pick = slice(0, size) if len(ranks) == size else torch.tensor(ranks, device=u.device)
    anchor = result.final_RHKV[:size][pick]
    folded = fold(
        anchor.flatten(0, 1),
        intra.decay_IHK1[local][pick].flatten(0, 1),
        intra.k_out_IHKC[local][pick].flatten(0, 1),
        u[pick].flatten(0, 1),
    )
    result.final_RHKV[:size][pick] = folded.view_as(anchor)
