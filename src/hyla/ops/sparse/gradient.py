"""Sparse attention over whole sequences under autograd: the same forward, and a backward that gathers again.

With p = exp(a - m) / l (saved: q, k, o, m, l and the selection) and delta = sum_v o' o, over the selected keys only:
    a' = p (o' c^T - delta);   q' = scale a' k;   k' += scale a'^T q;   k'[:V] += p^T o'
The selection is a constant: which keys are read is not differentiable, and its scores get no gradient from here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hyla.ops.backends import choose
from hyla.ops.batch import Batch
from hyla.ops.sparse.divergence import add_rows
from hyla.ops.sparse.pytorch import FlatKeys, scores, steps
from hyla.ops.sparse.selection import Selection


class SelectedAttention(torch.autograd.Function):
    """apply(q, k, selection, batch, scale, value_dim) -> o [T, H, V]."""

    @staticmethod
    def forward(ctx, q_THK, k_TK, selection, batch, scale, value_dim):
        found = choose("sparse", q_THK, k_TK).forward(q_THK, FlatKeys(k_TK, batch), selection, scale, value_dim)
        # The positions, too: where a layer is computed once more, they are not kept till then.
        ctx.save_for_backward(q_THK, k_TK, found.o_THV, found.max_TH, found.sum_TH, selection.positions_TS)
        ctx.counts, ctx.batch, ctx.scale, ctx.value_dim = selection.counts, batch, scale, value_dim
        return found.o_THV

    @staticmethod
    def backward(ctx, grad_o_THV):
        q_THK, k_TK, o_THV, max_TH, sum_TH, positions_TS = ctx.saved_tensors
        selection = Selection(positions_TS, ctx.counts)
        q_scaled = q_THK.to(o_THV.dtype) * ctx.scale
        delta_TH = (grad_o_THV * o_THV).sum(-1)
        keys = FlatKeys(k_TK, ctx.batch)
        grad_q, grad_k = torch.empty_like(q_scaled), torch.zeros_like(k_TK, dtype=o_THV.dtype)
        for rows_L, positions_LS in _own_steps(selection, ctx.batch, keys.key_dim * o_THV.element_size()):
            q_LHK, grad_o_LHV = q_scaled[rows_L], grad_o_THV[rows_L]
            p, k_LSK = scores(q_LHK, keys, rows_L, positions_LS)
            p_LHS = p.sub_(max_TH[rows_L][:, None, :, None]).exp_().transpose(1, 2).flatten(2)
            p_LHS = p_LHS / sum_TH[rows_L][..., None]
            grad_p = grad_o_LHV @ k_LSK[..., : ctx.value_dim].transpose(1, 2)
            grad_s = p_LHS * (grad_p - delta_TH[rows_L][..., None])
            grad_q[rows_L] = grad_s @ k_LSK * ctx.scale
            grad_k_LSK = grad_s.transpose(1, 2) @ q_LHK
            grad_k_LSK[..., : ctx.value_dim] += p_LHS.transpose(1, 2) @ grad_o_LHV
            places = keys.rows(rows_L, positions_LS.clamp_min(0))
            add_rows(grad_k, places.flatten(), grad_k_LSK.flatten(0, 1))
        return grad_q.to(q_THK.dtype), grad_k.to(k_TK.dtype), None, None, None, None


def _own_steps(selection: Selection, batch: Batch, bytes_per_key: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`steps` of one sequence after the other: the shapes of a row's products, and so its bits, are then a matter of
    its own sequence."""
    for offset, length in zip(batch.offsets, batch.lengths):
        yield from steps(selection, bytes_per_key, range(offset, offset + length))
