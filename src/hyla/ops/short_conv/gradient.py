"""The convolution with its gradient, by either backend."""

from __future__ import annotations

import torch

from hyla.ops.native import gradients, kernels
from hyla.ops.short_conv.native import as_stored
from hyla.ops.short_conv.plan import conv_plan


class ShortConv(torch.autograd.Function):
    """apply(x [T, C], weight [C, L], state [N, L - 1, C] or None, module, batch, ring): a backend's `forward` with its
    `backward` to x, the weight and the state.

    state: what the ring was made from; without it the ring's inputs are constants. Saves x only, not L copies.
    """

    @staticmethod
    def forward(ctx, x_TC, weight_CL, state_NJC, module, batch, ring, tail):
        # The inputs before the call are needed for the weight's gradient, and the ring is about to be overwritten.
        plan = conv_plan(batch, weight_CL.shape[1])
        history = None if ring is None or plan.taps == 1 else ring[plan.slots_N1, plan.history_NJ]
        ctx.save_for_backward(x_TC, weight_CL, history)
        ctx.module, ctx.plan = module, plan
        return module.forward(x_TC, weight_CL, batch, ring, tail)

    @staticmethod
    def backward(ctx, grad_TC):
        grads = ctx.module.backward(grad_TC, *ctx.saved_tensors, ctx.plan, ctx.needs_input_grad[2])
        return *grads, None, None, None, None


class ConvHeads(torch.autograd.Function):
    """apply(x [T, C], weight [C, L], spans, sizes) -> q, k, v of whole sequences, by the CPU's kernels both ways.

    sizes: keyword arguments of `kernels.conv_heads`. Saves x and the weight only: what lies between is computed again.
    """

    @staticmethod
    def forward(ctx, x_TC, weight_CL, spans_4N, sizes):
        ctx.save_for_backward(x_TC, weight_CL)
        ctx.spans_4N, ctx.sizes = spans_4N, sizes
        return kernels.conv_heads(x_TC, as_stored(weight_CL), spans_4N, None, None, **sizes)

    @staticmethod
    def backward(ctx, *grads):
        x_TC, weight_CL = ctx.saved_tensors
        sizes = {name: value for name, value in ctx.sizes.items() if name != "value_heads"}
        grad_x, grad_weight = gradients.conv(grads, x_TC, weight_CL, ctx.spans_4N, **sizes)
        return grad_x, grad_weight.to(weight_CL.dtype), None, None
