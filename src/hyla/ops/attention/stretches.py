"""The gradient of attention in PyTorch: the weights are computed again, a stretch of rows at a time."""

from __future__ import annotations

import torch

from hyla.grid import CHUNK
from hyla.ops.batch import Batch

SCORE_BYTES = 1 << 22
"""Size of the scores that the backward pass holds at a time."""


def backward(grad_o_THV, q_THK, k_TGK, v_TGV, sinks_H, found, *, batch: Batch, scale: float, value_dim: int, window):
    """Gradients of q, k, v and the sinks (None where there are none), in the dtype of the computation.

    found: o [T, Hq, V] and the statistics m, l [T, Hq] of the forward pass.
    """
    o_THV, max_TH, sum_TH = found
    heads, dtype = k_TGK.shape[1], o_THV.dtype
    by_head = {"q": q_THK.to(dtype) * scale, "grad_o": grad_o_THV, "max": max_TH[..., None]}
    delta_TH1 = (grad_o_THV * o_THV).sum(-1, keepdim=True)
    by_head |= {"sum": sum_TH[..., None], "delta": delta_TH1}
    # [G, R, T, .]: the query heads of a key head side by side.
    by_head = {name: x.unflatten(1, (heads, -1)).permute(1, 2, 0, 3) for name, x in by_head.items()}
    k_GTK = k_TGK.to(dtype).transpose(0, 1)
    v_GTV = k_GTK[..., :value_dim] if v_TGV is None else v_TGV.to(dtype).transpose(0, 1)
    grad_q = torch.empty_like(by_head["q"])
    grad_k, grad_v = torch.zeros_like(k_GTK), torch.zeros_like(v_GTV)
    for offset, length in zip(batch.offsets, batch.lengths):
        for begin, first, last in _stretches(length, q_THK.shape[1] * o_THV.element_size(), window):
            rows, keys = slice(offset + first, offset + last), slice(offset + begin, offset + last)
            here = {name: x[:, :, rows] for name, x in by_head.items()}
            grads = _stretch_backward(here, k_GTK[:, keys], v_GTV[:, keys], window)
            grad_q[:, :, rows] = grads[0]
            grad_k[:, keys] += grads[1]
            grad_v[:, keys] += grads[2]
    grad_q = grad_q.permute(2, 0, 1, 3).flatten(1, 2) * scale
    if v_TGV is None:
        grad_k[..., :value_dim] += grad_v
    grad_sinks = None
    if sinks_H is not None:
        weight_TH = (sinks_H.to(dtype) - max_TH).exp() / sum_TH
        grad_sinks = -(weight_TH * delta_TH1[..., 0]).sum(0)
    return grad_q, grad_k.transpose(0, 1), None if v_TGV is None else grad_v.transpose(0, 1), grad_sinks


def _stretches(length: int, bytes_per_score: int, window: int | None) -> list[tuple[int, int, int]]:
    """(first key, first row, end): query ranges of a sequence whose scores over the keys that they see fit."""
    reach = length if window is None else min(length, 2 * window)
    rows = max(1, SCORE_BYTES // (reach * bytes_per_score))
    if window is None:
        return [(0, first, min(first + rows, length)) for first in range(0, length, rows)]
    rows = min(rows, max(window, CHUNK))
    return [(max(0, first - window + 1), first, min(first + rows, length)) for first in range(0, length, rows)]


def _stretch_backward(rows: dict[str, torch.Tensor], k_GLK: torch.Tensor, v_GLV: torch.Tensor, window: int | None):
    """Gradients of (scaled) queries [G, R, C, K] and of the keys and values they see, whose last C are theirs."""
    count, length = rows["q"].shape[2], k_GLK.shape[1]
    q, grad_o = rows["q"].flatten(1, 2), rows["grad_o"].flatten(1, 2)
    p = (q @ k_GLK.transpose(1, 2)).unflatten(1, (-1, count))
    is_ahead = torch.ones(count, count, dtype=torch.bool, device=p.device).triu(1)
    p[..., length - count :].masked_fill_(is_ahead, float("-inf"))
    if window is not None:
        is_behind = torch.ones(count, length, dtype=torch.bool, device=p.device).tril(length - count - window)
        p.masked_fill_(is_behind, float("-inf"))
    p = p.sub_(rows["max"]).exp_().div_(rows["sum"])
    grad_v = p.flatten(1, 2).transpose(1, 2) @ grad_o
    grad_s = (grad_o @ v_GLV.transpose(1, 2)).view_as(p).sub_(rows["delta"]).mul_(p).flatten(1, 2)
    grad_q = (grad_s @ k_GLK).view_as(rows["q"])
    return grad_q, grad_s.transpose(1, 2) @ q, grad_v
