"""State space dual in chunks. PyTorch, any device, differentiable, the default.

With S the anchor, G_r the sum of log decays from the chunk's start and R = 63:

    o_r = e^{G_r} (S^T q_r) + sum_{j<=r} P_rj v_j      P_rj = e^{G_r - G_j} <q_r, k_j>
    S'  = e^{G_R} S + sum_j k_j (e^{G_R - G_j} v_j)^T

(arXiv 2405.21060, section 6.) Nothing is solved, so the chunks of a stretch are worked on together and only the
element-wise S' runs over them in order. An appended row (`append`) repeats the same operations on itself alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.grid import CHUNK
from hyla.ops.backends import runs_anywhere
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_chain import step_groups
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, RowPlan, chunk_plan, row_plan
from hyla.ops.exact.batched import bmm

unsupported = runs_anywhere


@dataclass
class Rows:
    """The keys, values and decay sums of I chunks."""

    k_t_IGKC: torch.Tensor
    v_IHCV: torch.Tensor
    sums_IHC: torch.Tensor
    """float64: log decays summed from the chunk's start, so that a difference of two sums costs no accuracy."""


def _spread(x_IG: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat groups so that head h reads group h // (H / G)."""
    repeats = heads // x_IG.shape[1]
    return x_IG if repeats == 1 else x_IG.repeat_interleave(repeats, dim=1)


def _rows(k_IGCK, v_IHCV, log_decay_IHC) -> Rows:
    return Rows(k_IGCK.transpose(2, 3).contiguous(), v_IHCV, log_decay_IHC.double().cumsum(-1))


def _with_old(rows: Rows, log_decay_IHC, ranks: list[int], old, is_old_OC) -> Rows:
    """Rows whose first items continue open chunks: sums go on from the last old row's, old rows keep what they are."""
    is_old = is_old_OC[:, None]
    last_old = is_old & ~torch.nn.functional.pad(is_old[..., 1:], (0, 1))
    decay = log_decay_IHC[ranks].double()
    sums = torch.where(last_old, old["decay_sum"], decay).cumsum(-1)
    rows.sums_IHC[ranks] = torch.where(is_old, old["decay_sum"], sums)
    rows.k_t_IGKC[ranks] = torch.where(is_old[:, :, None], old["k_t"], rows.k_t_IGKC[ranks])
    rows.v_IHCV[ranks] = torch.where(is_old[..., None], old["u"], rows.v_IHCV[ranks])
    return rows


def _inside(q_IGCK: torch.Tensor, rows: Rows) -> torch.Tensor:
    """What the rows of a chunk read from its own rows, [I, H, 64, V]."""
    items, heads = rows.v_IHCV.shape[:2]
    dots = bmm(q_IGCK.flatten(0, 1), rows.k_t_IGKC.flatten(0, 1)).view(items, -1, CHUNK, CHUNK)
    place = torch.arange(CHUNK, device=dots.device)
    between = (rows.sums_IHC[..., :, None] - rows.sums_IHC[..., None, :]).to(dots.dtype)
    decays = torch.exp(between.masked_fill(place[None, :] > place[:, None], float("-inf")))
    p = _spread(dots, heads) * decays
    return bmm(p.flatten(0, 1), rows.v_IHCV.flatten(0, 1)).view_as(rows.v_IHCV)


def _from_anchor(q_IGCK, sums_IHC, anchor_IHKV) -> torch.Tensor:
    """What the rows of a chunk read from the anchor, [I, H, 64, V]."""
    items, heads = anchor_IHKV.shape[:2]
    read = bmm(_spread(q_IGCK, heads).flatten(0, 1), anchor_IHKV.flatten(0, 1))
    return read.view(items, heads, CHUNK, -1) * torch.exp(sums_IHC.to(read.dtype))[..., None]


def _to_anchor(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """What a whole chunk adds to the anchor, [I, H, K, V], and the anchor's decay over it, [I, H, 1, 1]."""
    items, heads = rows.v_IHCV.shape[:2]
    last, dtype = rows.sums_IHC[..., -1:], rows.v_IHCV.dtype
    v_out = rows.v_IHCV * torch.exp((last - rows.sums_IHC).to(dtype))[..., None]
    added = bmm(_spread(rows.k_t_IGKC, heads).flatten(0, 1), v_out.flatten(0, 1))
    return added.view(items, heads, -1, v_out.shape[3]), torch.exp(last.to(dtype))[..., None]


def _stretches(plan: ChunkPlan, heads: int, key_dim: int, value_dim: int) -> list[tuple[range, slice]]:
    """The steps in stretches whose temporaries stay small, each with its items."""
    starts, sizes = plan.step_starts(), plan.step_sizes
    groups = step_groups(plan, heads * CHUNK * max(key_dim, value_dim, CHUNK))
    return [(group, slice(starts[group[0]], starts[group[-1]] + sizes[group[-1]])) for group in groups]


def _walk_anchors(plan: ChunkPlan, steps: range, added, decay, state_RHKV) -> torch.Tensor:
    """The anchor that each item of a stretch reads, [I, H, K, V]; state becomes the anchor after it."""
    anchors = torch.empty_like(added)
    starts, sizes = plan.step_starts(), (*plan.step_sizes, 0)
    closes = set(plan.closed_ranks)
    for step in steps:
        size = sizes[step]
        first = starts[step] - starts[steps[0]]
        here = slice(first, first + size)
        anchors[here] = state_RHKV[:size]
        folded = decay[here] * state_RHKV[:size] + added[here]
        closing = [rank for rank in range(size) if rank < sizes[step + 1] or rank in closes]
        # A tail's chunk stays open: its anchor stays.
        pick = slice(0, size) if len(closing) == size else torch.tensor(closing, dtype=torch.int64, device=added.device)
        state_RHKV[pick] = folded[pick]
    return anchors


def run_chunks(plan: ChunkPlan, q_IGCK, rows_of, state_RHKV, out_IHCV, *, anchors_IHKV=None) -> dict[int, tuple]:
    """Outputs of all items into out; anchors (and `state`) as the walk leaves them.

    rows_of: the `Rows` of a slice of items. Returns each tail rank's open rows: (v, k_t, decay_sum).
    """
    tails = {}
    sizes = (out_IHCV.shape[1], q_IGCK.shape[3], out_IHCV.shape[3])
    for steps, part in _stretches(plan, *sizes):
        rows = rows_of(part)
        anchors = _walk_anchors(plan, steps, *_to_anchor(rows), state_RHKV)
        out_IHCV[part] = _from_anchor(q_IGCK[part], rows.sums_IHC, anchors) + _inside(q_IGCK[part], rows)
        if anchors_IHKV is not None:
            anchors_IHKV[part] = anchors
        for rank in plan.tail_ranks:
            item = plan.last_items[rank] - part.start
            if 0 <= item < part.stop - part.start:
                tails[rank] = (rows.v_IHCV[item], rows.k_t_IGKC[item], rows.sums_IHC[item])
    return tails


class SSD(torch.autograd.Function):
    """apply(plan, q [T, G, K], k, v [T, H, V], log_decay [T, H]) -> o [T, H, V] of whole sequences.

    Saves the inputs and the anchors. Backward, chunks in reverse, with X' the gradient of X:
    S0' = e^{G_R} S1' + sum_r e^{G_r} q_r o_r'^T; all else is differentiated by autograd, a stretch of items at a time.
    """

    @staticmethod
    def forward(ctx, plan: ChunkPlan, *inputs):
        q, k, v, decay = (to_items(x, plan) for x in inputs)
        state = v.new_zeros(len(plan.sequences), v.shape[1], k.shape[3], v.shape[3])
        needs_grad = any(ctx.needs_input_grad)
        anchors = v.new_empty(v.shape[0], *state.shape[1:]) if needs_grad else None
        out = torch.empty_like(v)
        run_chunks(plan, q, lambda part: _rows(k[part], v[part], decay[part]), state, out, anchors_IHKV=anchors)
        if needs_grad:
            ctx.save_for_backward(*inputs, anchors)
            ctx.plan = plan
        return from_items(out, plan)

    @staticmethod
    def backward(ctx, grad_o_THV):
        plan: ChunkPlan = ctx.plan
        *inputs, anchors = ctx.saved_tensors
        items = [to_items(x, plan) for x in inputs]
        grad_o = to_items(grad_o_THV, plan)
        grads = [torch.empty_like(x) for x in items]
        state_grad = anchors.new_zeros(len(plan.sequences), *anchors.shape[1:])
        for steps, part in reversed(_stretches(plan, anchors.shape[1], anchors.shape[2], anchors.shape[3])):
            with torch.enable_grad():
                leaves = [x[part].detach().requires_grad_() for x in items]
                q, k, v, decay = leaves
                rows = _rows(k, v, decay)
                added, whole = _to_anchor(rows)
                outputs = (
                    _from_anchor(q, rows.sums_IHC, anchors[part]) + _inside(q, rows),
                    whole * anchors[part] + added,
                )
            since_start = torch.exp(rows.sums_IHC.detach().to(v.dtype))[..., None]
            q_in = _spread(q.detach(), anchors.shape[1]) * since_start
            from_output = q_in.transpose(-1, -2) @ grad_o[part]
            grad_next = _backward_walk(plan, steps, from_output, whole.detach(), state_grad)
            found = torch.autograd.grad(outputs, leaves, (grad_o[part], grad_next))
            for grad, value in zip(grads, found):
                grad[part] = value
        return None, *(from_items(grad, plan) for grad in grads)


def _backward_walk(plan: ChunkPlan, steps: range, from_output, decay, state_grad_RHKV) -> torch.Tensor:
    """The gradient of the anchor after each item of a stretch; state_grad becomes that of the one before it."""
    starts = plan.step_starts()
    grad_next = torch.empty_like(from_output)
    for step in reversed(steps):
        size, first = plan.step_sizes[step], starts[step] - starts[steps[0]]
        here = slice(first, first + size)
        grad_next[here] = state_grad_RHKV[:size]
        state_grad_RHKV[:size] = decay[here] * grad_next[here] + from_output[here]
    return grad_next


def extend(q_TGK, k_TGK, v_THV, log_decay_TH, batch: Batch, cache) -> torch.Tensor:
    """New rows of every sequence against the cache."""
    inputs = (q_TGK, k_TGK, v_THV, log_decay_TH)
    out = torch.empty_like(v_THV)
    if batch.decode_sequences:
        plan = row_plan(batch)
        if plan.covers_batch:
            return append(plan, *inputs, cache)
        out[plan.flat_rows_N] = append(plan, *(x[plan.flat_rows_N] for x in inputs), cache)
    if batch.prefill_sequences:
        plan = chunk_plan(batch)
        out[plan.flat_rows_T] = _extend_chunks(plan, inputs, batch, cache)
    return out


def _extend_chunks(plan: ChunkPlan, inputs, batch: Batch, cache) -> torch.Tensor:
    """Rows of the prefill sequences, continuing their open chunks; leaves anchors and open rows in the cache."""
    q, k, v, decay = (to_items(x, plan) for x in inputs)
    slots = [batch.slots[n] for n in plan.sequences]
    slots_R = batch.index(slots)
    ranks = list(plan.open_ranks)
    old = {name: cache[name][slots_R[ranks]] for name in ("u", "k_t", "decay_sum")} if ranks else None

    def rows_of(part: slice) -> Rows:
        rows = _rows(k[part], v[part], decay[part])
        return _with_old(rows, decay[part], ranks, old, plan.is_old_OC) if ranks and part.start == 0 else rows

    state = cache["anchor"][slots_R]
    out = torch.empty_like(v)
    tails = run_chunks(plan, q, rows_of, state, out)
    cache["anchor"][slots_R] = state
    for rank, (v_HCV, k_t_GKC, sums_HC) in tails.items():
        cache["u"][slots[rank]] = v_HCV
        cache["k_t"][slots[rank]] = k_t_GKC
        cache["decay_sum"][slots[rank]] = sums_HC
    return from_items(out, plan)


def append(plan: RowPlan, q_NGK, k_NGK, v_NHV, log_decay_NH, cache) -> torch.Tensor:
    """The chunk path on one new row per sequence; extends the cache and folds chunks that the row closes."""
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    count, heads = log_decay_NH.shape
    before = cache["decay_sum"][slots_N, :, (row_N - 1).clamp_min(0)]
    total = torch.where(row_N[:, None] > 0, before + log_decay_NH.double(), log_decay_NH.double())
    cache["k_t"][slots_N, :, :, row_N] = k_NGK
    cache["u"][slots_N, :, row_N] = v_NHV
    cache["decay_sum"][slots_N, :, row_N] = total

    dots = bmm(q_NGK.reshape(-1, 1, q_NGK.shape[2]), cache["k_t"][slots].flatten(0, 1)).view(count, -1, CHUNK)
    place = torch.arange(CHUNK, device=row_N.device)
    between = (total[..., None] - cache["decay_sum"][slots]).to(dots.dtype)
    p = _spread(dots, heads) * torch.exp(between.masked_fill(place > row_N[:, None, None], float("-inf")))
    inside = bmm(p.view(-1, 1, CHUNK), cache["u"][slots].flatten(0, 1)).view_as(v_NHV)
    read = bmm(_spread(q_NGK, heads).reshape(-1, 1, q_NGK.shape[2]), cache["anchor"][slots].flatten(0, 1))
    out = read.view_as(v_NHV) * torch.exp(total.to(dots.dtype))[..., None] + inside
    if len(plan.closing):
        closing = slots_N[plan.closing]
        full = Rows(cache["k_t"][closing], cache["u"][closing], cache["decay_sum"][closing])
        added, decay = _to_anchor(full)
        cache["anchor"][closing] = decay * cache["anchor"][closing] + added
    return out
