"""How far index scores are from what attention reads, row by row, and the gradient that brings them closer.

For the keys s of row t (all up to its own, or the selected ones):
    I_s = sum_h w_h relu((scale q_h) . k_s)        r = softmax(I)
    p_s = mean over heads of softmax(a_h)_s        a_hs = (attention scale q'_h) . k'_s
    D = sum_s p_s (ln p_s - ln r_s)                I'_s = D' (r_s - p_s)
    w_h' = sum_s I'_s relu_hs      q_h' = scale w_h sum_s I'_s [relu_hs > 0] k_s      k_s' the same with q_h for k_s
Each head's softmax sums to one, so the mean is the sum over heads, L1-normalised. p is a constant.

Rows are taken some at a time, each sequence by itself: how many is a function of the sequence's own length, so no bit
of a row depends on its neighbours in the batch, and nothing of rows times keys outlives its stretch. The backward pass
computes the scores again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from hyla.ops.batch import Batch
from hyla.ops.sparse.selection import Selection

STRETCH_BYTES = 1 << 24
"""Size of what is held of the pairs of rows and keys at a time."""


class Stretch(NamedTuple):
    """R rows of one sequence, and S places of keys for each."""

    rows: slice
    """Flat rows."""
    keys: slice | torch.Tensor
    """Flat rows of the keys: the same S for all, or int64 [R, S]."""
    is_out_RS: torch.Tensor
    """Places without a key."""


class Divergence(torch.autograd.Function):
    """apply(q, k, weights, attention's q, its k, selection or None, batch, scale, attention scale) -> D [T]."""

    @staticmethod
    def forward(ctx, q_THI, k_TI, weights_TH, queries_THK, keys_TK, selection, batch, scale, attention_scale):
        counts, positions_TS = (None, None) if selection is None else (selection.counts, selection.positions_TS)
        ctx.save_for_backward(q_THI, k_TI, weights_TH, queries_THK, keys_TK, positions_TS)
        ctx.counts, ctx.batch, ctx.scale, ctx.attention_scale = counts, batch, scale, attention_scale
        found_T = q_THI.new_empty(q_THI.shape[0])
        for stretch in _stretches(batch, selection, _pair_bytes(q_THI, queries_THK, selection)):
            p_RS = _read(queries_THK, keys_TK, stretch, attention_scale)
            log_r_RS = _scored(q_THI, k_TI, weights_TH, stretch, scale)[2].log_softmax(-1)
            terms_RS = torch.where(p_RS > 0, p_RS * (p_RS.log() - log_r_RS), 0.0)
            found_T[stretch.rows] = terms_RS.sum(-1)
        return found_T

    @staticmethod
    def backward(ctx, grad_T):
        q_THI, k_TI, weights_TH, queries_THK, keys_TK, positions_TS = ctx.saved_tensors
        selection = None if positions_TS is None else Selection(positions_TS, ctx.counts)
        grad_q, grad_weights = torch.empty_like(q_THI), torch.empty_like(weights_TH)
        grad_k = torch.zeros_like(k_TI, dtype=q_THI.dtype)
        for stretch in _stretches(ctx.batch, selection, _pair_bytes(q_THI, queries_THK, selection)):
            rows = stretch.rows
            q_RHI, by_head_RHS, scores_RS, k = _scored(q_THI, k_TI, weights_TH, stretch, ctx.scale)
            p_RS = _read(queries_THK, keys_TK, stretch, ctx.attention_scale)
            grad_RS = (scores_RS.softmax(-1) - p_RS) * grad_T[rows, None]
            grad_weights[rows] = (by_head_RHS @ grad_RS[..., None])[..., 0]
            grad_RHS = (weights_TH[rows, :, None] * grad_RS[:, None]).masked_fill_(by_head_RHS <= 0, 0.0)
            grad_q[rows] = grad_RHS @ k * ctx.scale
            if isinstance(stretch.keys, slice):
                grad_k[stretch.keys] += grad_RHS.flatten(0, 1).t() @ q_RHI.flatten(0, 1)
            else:
                add_rows(grad_k, stretch.keys.flatten(), (grad_RHS.transpose(1, 2) @ q_RHI).flatten(0, 1))
        return grad_q, grad_k.to(k_TI.dtype), grad_weights, None, None, None, None, None, None


def add_rows(total_TK: torch.Tensor, places_A: torch.Tensor, rows_AK: torch.Tensor) -> None:
    """Add each row at its place, in place; rows of one place in a fixed order, so that a run can be repeated."""
    if total_TK.device.type == "cpu":
        total_TK.index_add_(0, places_A, rows_AK)
    else:
        # A GPU's index_add_ adds by atomics, in any order; this one sorts the places first.
        total_TK.index_put_((places_A,), rows_AK, accumulate=True)


def _pair_bytes(q_THI: torch.Tensor, queries_THK: torch.Tensor, selection: Selection | None) -> int:
    """What a pair of a row and a key holds: scores of all heads, and both keys where each row gathers its own."""
    elements = 2 * q_THI.shape[1] + queries_THK.shape[1]
    if selection is not None:
        elements += q_THI.shape[2] + queries_THK.shape[2]
    return elements * q_THI.element_size()


def _stretches(batch: Batch, selection: Selection | None, pair_bytes: int) -> Iterator[Stretch]:
    """All rows, sequence by sequence."""
    for offset, length in zip(batch.offsets, batch.lengths):
        most = length if selection is None else selection.counts[offset + length - 1]
        step = max(1, STRETCH_BYTES // (most * pair_bytes))
        for first in range(0, length, step):
            last = min(first + step, length)
            rows = slice(offset + first, offset + last)
            if selection is None:
                positions = torch.arange(last, device=batch.device)
                yield Stretch(rows, slice(offset, offset + last), positions > positions[first:, None])
            else:
                places_RS = selection.positions_TS[rows, : selection.counts[offset + last - 1]].long()
                yield Stretch(rows, offset + places_RS.clamp_min(0), places_RS < 0)


def _read(queries_THK, keys_TK: torch.Tensor, stretch: Stretch, scale: float) -> torch.Tensor:
    """p [R, S]: what the heads of attention read of each key, on the mean."""
    q_RHK = queries_THK[stretch.rows] * scale
    scores_RHS = q_RHK @ _keys(keys_TK, stretch, q_RHK.dtype).transpose(-1, -2)
    return scores_RHS.masked_fill_(stretch.is_out_RS[:, None], -torch.inf).softmax(-1).mean(1)


def _scored(q_THI, k_TI: torch.Tensor, weights_TH, stretch: Stretch, scale: float):
    """Scaled queries [R, H, I], relu of their products [R, H, S], the scores [R, S], and the keys [(R,) S, I]."""
    q_RHI = q_THI[stretch.rows] * scale
    k = _keys(k_TI, stretch, q_RHI.dtype)
    by_head_RHS = (q_RHI @ k.transpose(-1, -2)).clamp_min_(0.0)
    scores_RS = (weights_TH[stretch.rows].clone()[:, None] @ by_head_RHS)[:, 0]
    return q_RHI, by_head_RHS, scores_RS.masked_fill_(stretch.is_out_RS, -torch.inf), k


def _keys(k_TK: torch.Tensor, stretch: Stretch, dtype: torch.dtype) -> torch.Tensor:
    """[S, K] or [R, S, K], always in memory of their own: a library may choose its code by where an operand begins."""
    return k_TK[stretch.keys].to(dtype, copy=isinstance(stretch.keys, slice))
