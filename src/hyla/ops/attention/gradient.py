"""Attention over whole sequences under autograd: the same forward, and a backward that recomputes the weights.

With p = exp(s - m) / l (saved: q, k, v, o, m, l) and delta = sum_v o' o:
    v' = p^T o';   s' = p (o' v^T - delta);   q' = scale s' k;   k' = scale s'^T q
Source: FlashAttention-2, arXiv 2307.08691, algorithm 2.
"""

from __future__ import annotations

import torch

from hyla.ops.attention.chunked import attend, scratch_pages, write_rows
from hyla.ops.attention.plan import AttentionPlan

SCORE_BYTES = 1 << 22
"""Size of the scores that the backward pass holds at a time."""


def attend_whole(q_THK, k_TGK, v_TGV, plan: AttentionPlan, scale: float, value_dim: int):
    """o [T, Hq, V] and the statistics m, l [T, Hq] of a batch without a cache."""
    dtype = torch.float64 if q_THK.dtype == torch.float64 else torch.float32
    pages = scratch_pages(k_TGK, v_TGV, plan)
    write_rows(pages, k_TGK, v_TGV, plan.write)
    found = attend((q_THK.to(dtype) * scale).flatten(0, 1), pages, plan, value_dim)
    heads = q_THK.shape[:2]
    return found.o_RV.view(*heads, value_dim), found.max_R.view(heads), found.sum_R.view(heads)


class Attention(torch.autograd.Function):
    """apply(q, k, v or None, batch, plan, scale, value_dim) -> o [T, Hq, V]."""

    @staticmethod
    def forward(ctx, q_THK, k_TGK, v_TGV, batch, plan, scale, value_dim):
        o_THV, max_TH, sum_TH = attend_whole(q_THK, k_TGK, v_TGV, plan, scale, value_dim)
        ctx.save_for_backward(q_THK, k_TGK, v_TGV, o_THV, max_TH, sum_TH)
        ctx.batch, ctx.scale, ctx.value_dim = batch, scale, value_dim
        return o_THV

    @staticmethod
    def backward(ctx, grad_o_THV):
        q_THK, k_TGK, v_TGV, o_THV, max_TH, sum_TH = ctx.saved_tensors
        heads, dtype = k_TGK.shape[1], o_THV.dtype
        by_head = {"q": q_THK.to(dtype) * ctx.scale, "grad_o": grad_o_THV, "max": max_TH[..., None]}
        by_head |= {"sum": sum_TH[..., None], "delta": (grad_o_THV * o_THV).sum(-1, keepdim=True)}
        # [G, R, T, .]: the query heads of a key head side by side.
        by_head = {name: x.unflatten(1, (heads, -1)).permute(1, 2, 0, 3) for name, x in by_head.items()}
        k_GTK = k_TGK.to(dtype).transpose(0, 1)
        v_GTV = k_GTK[..., : ctx.value_dim] if v_TGV is None else v_TGV.to(dtype).transpose(0, 1)
        grad_q = torch.empty_like(by_head["q"])
        grad_k, grad_v = torch.zeros_like(k_GTK), torch.zeros_like(v_GTV)
        for offset, length in zip(ctx.batch.offsets, ctx.batch.lengths):
            for first, last in _stretches(length, q_THK.shape[1] * o_THV.element_size()):
                rows, keys = slice(offset + first, offset + last), slice(offset, offset + last)
                here = {name: x[:, :, rows] for name, x in by_head.items()}
                grads = _stretch_backward(here, k_GTK[:, keys], v_GTV[:, keys])
                grad_q[:, :, rows] = grads[0]
                grad_k[:, keys] += grads[1]
                grad_v[:, keys] += grads[2]
        grad_q = grad_q.permute(2, 0, 1, 3).flatten(1, 2) * ctx.scale
        if v_TGV is None:
            grad_k[..., : ctx.value_dim] += grad_v
        grad_v = None if v_TGV is None else grad_v.transpose(0, 1).to(v_TGV.dtype)
        return grad_q.to(q_THK.dtype), grad_k.transpose(0, 1).to(k_TGK.dtype), grad_v, None, None, None, None


def _stretches(length: int, bytes_per_score: int) -> list[tuple[int, int]]:
    """Query ranges of a sequence whose scores over all its keys fit."""
    rows = max(1, SCORE_BYTES // (length * bytes_per_score))
    return [(first, min(first + rows, length)) for first in range(0, length, rows)]


def _stretch_backward(rows: dict[str, torch.Tensor], k_GLK: torch.Tensor, v_GLV: torch.Tensor):
    """Gradients of (scaled) queries [G, R, C, K] and of the keys and values they see, whose last C are theirs."""
    count, length = rows["q"].shape[2], k_GLK.shape[1]
    q, grad_o = rows["q"].flatten(1, 2), rows["grad_o"].flatten(1, 2)
    p = (q @ k_GLK.transpose(1, 2)).unflatten(1, (-1, count))
    is_ahead = torch.ones(count, count, dtype=torch.bool, device=p.device).triu(1)
    p[..., length - count :].masked_fill_(is_ahead, float("-inf"))
    p = p.sub_(rows["max"]).exp_().div_(rows["sum"])
    grad_v = p.flatten(1, 2).transpose(1, 2) @ grad_o
    grad_s = (grad_o @ v_GLV.transpose(1, 2)).view_as(p).sub_(rows["delta"]).mul_(p).flatten(1, 2)
    grad_q = (grad_s @ k_GLK).view_as(rows["q"])
    return grad_q, grad_s.transpose(1, 2) @ q, grad_v
