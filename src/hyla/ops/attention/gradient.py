"""Attention over whole sequences under autograd: the same forward, and a backward that recomputes the weights.

With p = exp(s - m) / l (saved: q, k, v, o, m, l) and delta = sum_v o' o:
    v' = p^T o';   s' = p (o' v^T - delta);   q' = scale s' k;   k' = scale s'^T q
    z' = -sum_t exp(z - m) / l delta for a sink z
Source: FlashAttention-2, arXiv 2307.08691, algorithm 2.
"""

from __future__ import annotations

import torch


class Attention(torch.autograd.Function):
    """apply(q, k, v or None, sinks or None, backend, options) -> o [T, Hq, V].

    backend: the module that computes both passes. options: batch, scale, value_dim and window.
    """

    @staticmethod
    def forward(ctx, q_THK, k_TGK, v_TGV, sinks_H, backend, options):
        o_THV, max_TH, sum_TH = backend.forward(q_THK, k_TGK, v_TGV, sinks_H, cache=None, **options)
        ctx.save_for_backward(q_THK, k_TGK, v_TGV, sinks_H, o_THV, max_TH, sum_TH)
        ctx.backend, ctx.options = backend, options
        return o_THV

    @staticmethod
    def backward(ctx, grad_o_THV):
        *inputs, o_THV, max_TH, sum_TH = ctx.saved_tensors
        grads = ctx.backend.backward(grad_o_THV, *inputs, (o_THV, max_TH, sum_TH), **ctx.options)
        grads = (None if x is None else grad.to(x.dtype) for x, grad in zip(inputs, grads, strict=True))
        return *grads, None, None
