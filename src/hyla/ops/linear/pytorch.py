"""Linear attention in chunks of 64 on the absolute grid. PyTorch, any device, differentiable, the default.

A value row carries a one behind its channels (and zeros up to `cost.row_width`), so that one product gives S^T q and
z . q, and one state holds S and z. A chunk's rows read the anchor and then, as one product over the chunk's 64 places,
the rows up to their own; an appended row repeats these two products on itself alone.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.backends import runs_anywhere
from hyla.ops.batch import Batch
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, RowPlan, chunk_plan, row_plan
from hyla.ops.exact.batched import bmm
from hyla.ops.linear.cost import row_width

unsupported = runs_anywhere


def linear_attention(q_THK, k_THK, v_THV, *, batch: Batch, cache, eps: float) -> torch.Tensor:
    """The operator (see `hyla.ops.linear`)."""
    _check(q_THK, k_THK, v_THV, batch)
    value_dim = v_THV.shape[2]
    rows_THW = pad(pad(v_THV, (0, 1), value=1.0), (0, row_width(value_dim) - value_dim - 1))
    inputs = (q_THK, k_THK, rows_THW)
    sums_THW = _WholeSequences.apply(chunk_plan(batch), *inputs) if cache is None else _cached(inputs, batch, cache)
    return sums_THW[..., :value_dim] / (sums_THW[..., value_dim : value_dim + 1] + eps)


def _check(q, k, v, batch: Batch) -> None:
    if q.shape != k.shape or q.shape[:2] != v.shape[:2]:
        raise ConfigError(
            f"linear attention: shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if q.shape[0] != batch.num_tokens:
        raise ConfigError(f"linear attention: {q.shape[0]} rows for a batch of {batch.num_tokens} tokens")


def _cached(inputs, batch: Batch, cache) -> torch.Tensor:
    """Sums [T, H, W] of new rows against a cache."""
    out = torch.empty_like(inputs[2])
    if batch.decode_sequences:
        plan = row_plan(batch)
        if plan.covers_batch:
            return _append(plan, *inputs, cache)
        out[plan.flat_rows_N] = _append(plan, *(x[plan.flat_rows_N] for x in inputs), cache)
    if batch.prefill_sequences:
        plan = chunk_plan(batch)
        out[plan.flat_rows_T] = _extend(plan, inputs, batch, cache)
    return out


def _fold(anchor_BKW: torch.Tensor, k_t_BKC: torch.Tensor, v_BCW: torch.Tensor) -> torch.Tensor:
    """The next anchor of B closed chunks."""
    return anchor_BKW + bmm(k_t_BKC, v_BCW)


def _walk(plan: ChunkPlan, q_IHCK, k_t_IHKC, v_IHCW, anchor_RHKW, anchors_IHKW=None) -> torch.Tensor:
    """Sums [I, H, 64, W] of all chunks in order; moves anchor_RHKW of each rank past its last closed chunk.

    anchors_IHKW: filled with the anchor that each item read.
    """
    place = torch.arange(CHUNK, device=q_IHCK.device)
    is_past = (place[None, :] <= place[:, None]).to(q_IHCK.dtype)
    closes = set(plan.closed_ranks)
    out = torch.empty_like(v_IHCW)
    for step, start in enumerate(plan.step_starts()):
        size = plan.step_sizes[step]
        here = slice(start, start + size)
        q, k_t, v = (x[here].flatten(0, 1) for x in (q_IHCK, k_t_IHKC, v_IHCW))
        anchor = anchor_RHKW[:size]
        if anchors_IHKW is not None:
            anchors_IHKW[here] = anchor
        weights = bmm(q, k_t) * is_past
        out[here] = (bmm(q, anchor.flatten(0, 1)) + bmm(weights, v)).view_as(out[here])
        going_on = plan.step_sizes[step + 1] if step + 1 < len(plan.step_sizes) else 0
        ranks = [rank for rank in range(size) if rank < going_on or rank in closes]
        if ranks:
            items = [start + rank for rank in ranks]
            parts = (anchor_RHKW[ranks], k_t_IHKC[items], v_IHCW[items])
            anchor_RHKW[ranks] = _fold(*(x.flatten(0, 1) for x in parts)).view_as(parts[0])
    return out


def _extend(plan: ChunkPlan, inputs, batch: Batch, cache) -> torch.Tensor:
    """Rows of the prefill sequences, continuing their open chunks; leaves anchors and open rows in the cache."""
    q, k, v = (to_items(x, plan) for x in inputs)
    k_t = k.transpose(2, 3).contiguous()
    slots = batch.index([batch.slots[n] for n in plan.sequences])
    if plan.open_ranks:
        ranks = list(plan.open_ranks)
        is_old = plan.is_old_OC[:, None, :, None]
        k_t[ranks] = torch.where(is_old.transpose(2, 3), cache["k_t"][slots[ranks]], k_t[ranks])
        v[ranks] = torch.where(is_old, cache["v"][slots[ranks]], v[ranks])
    anchor = cache["anchor"][slots]
    out = _walk(plan, q, k_t, v, anchor)
    cache["anchor"][slots] = anchor
    if plan.tail_ranks:
        tails = list(plan.tail_ranks)
        items = [plan.last_items[rank] for rank in tails]
        cache["k_t"][slots[tails]] = k_t[items]
        cache["v"][slots[tails]] = v[items]
    return from_items(out, plan)


def _append(plan: RowPlan, q_NHK, k_NHK, v_NHW, cache) -> torch.Tensor:
    """One new row per sequence; extends the cache and folds chunks that the row closes. Returns sums [N, H, W]."""
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    cache["k_t"][slots_N, :, :, row_N] = k_NHK
    cache["v"][slots_N, :, row_N] = v_NHW
    q = q_NHK.flatten(0, 1)[:, None]
    anchor, k_t, v = (cache[name][slots] for name in ("anchor", "k_t", "v"))
    is_past = (torch.arange(CHUNK, device=row_N.device) <= row_N[:, None]).to(q.dtype)
    weights = bmm(q, k_t.flatten(0, 1)).view(*q_NHK.shape[:2], CHUNK) * is_past[:, None]
    inside = bmm(weights.flatten(0, 1)[:, None], v.flatten(0, 1))
    out = (bmm(q, anchor.flatten(0, 1)) + inside).view_as(v_NHW)
    if len(plan.closing):
        closing = slots_N[plan.closing]
        parts = [cache[name][closing] for name in ("anchor", "k_t", "v")]
        cache["anchor"][closing] = _fold(*(x.flatten(0, 1) for x in parts)).view_as(parts[0])
    return out


class _WholeSequences(torch.autograd.Function):
    """apply(plan, q [T, H, K], k, v [T, H, W]) -> sums [T, H, W]. Saves inputs and anchors, recomputes the rest.

    With o' = dL/do and G the gradient of the anchor after a chunk, M the lower triangle with the diagonal:
        q' = o' S^T + M(o' v^T) k;  k' = M(o' v^T)^T q + v G^T;  v' = M(q k^T)^T o' + k G;  G_before = G + q^T o'
    """

    @staticmethod
    def forward(ctx, plan: ChunkPlan, q_THK, k_THK, v_THW):
        q, k, v = (to_items(x, plan) for x in (q_THK, k_THK, v_THW))
        start = v.new_zeros(len(plan.sequences), v.shape[1], k.shape[3], v.shape[3])
        anchors = v.new_empty(v.shape[0], *start.shape[1:]) if any(ctx.needs_input_grad) else None
        out = _walk(plan, q, k.transpose(2, 3).contiguous(), v, start, anchors)
        if anchors is not None:
            ctx.save_for_backward(q_THK, k_THK, v_THW, anchors)
            ctx.plan = plan
        return from_items(out, plan)

    @staticmethod
    def backward(ctx, grad_THW):
        plan = ctx.plan
        *inputs, anchors = ctx.saved_tensors
        q, k, v = (to_items(x, plan) for x in inputs)
        grad = to_items(grad_THW, plan)
        after = torch.empty_like(anchors)
        state = anchors.new_zeros(len(plan.sequences), *anchors.shape[1:])
        from_outputs = q.transpose(2, 3) @ grad
        for start, size in reversed(list(zip(plan.step_starts(), plan.step_sizes))):
            after[start : start + size] = state[:size]
            state[:size] += from_outputs[start : start + size]
        grad_weights = (grad @ v.transpose(2, 3)).tril()
        weights = (q @ k.transpose(2, 3)).tril()
        grad_q = grad @ anchors.transpose(2, 3) + grad_weights @ k
        grad_k = grad_weights.transpose(2, 3) @ q + v @ after.transpose(2, 3)
        grad_v = weights.transpose(2, 3) @ grad + k @ after
        return None, *(from_items(x, plan) for x in (grad_q, grad_k, grad_v))
