"""The convolution's gradient, tap by tap over stretches of rows."""

from __future__ import annotations

import torch

from hyla.ops.short_conv.plan import ConvPlan, conv_plan
from hyla.ops.short_conv.pytorch import stretches, taps_first


class ShortConv(torch.autograd.Function):
    """apply(x [T, C], weight [C, L], state [N, L - 1, C] or None, forward, batch, ring): the backend's `forward` with a
    gradient to x, the weight and the state.

    state: what the ring was made from; without it the ring's inputs are constants. Saves x only, not L copies.
    """

    @staticmethod
    def forward(ctx, x_TC, weight_CL, state_NJC, forward, batch, ring):
        # The inputs before the call are needed for the weight's gradient, and the ring is about to be overwritten.
        plan = conv_plan(batch, weight_CL.shape[1])
        history = None if ring is None or plan.taps == 1 else ring[plan.slots_N1, plan.history_NJ]
        ctx.save_for_backward(x_TC, weight_CL, history)
        ctx.plan = plan
        return forward(x_TC, weight_CL, batch, ring)

    @staticmethod
    def backward(ctx, grad_TC):
        x_TC, weight_CL, history_NJC = ctx.saved_tensors
        plan: ConvPlan = ctx.plan
        weight_LC = taps_first(weight_CL, x_TC.dtype)
        grad_TC = grad_TC.to(weight_LC.dtype)
        grad_x = torch.zeros_like(grad_TC)
        grad_weight_LC = torch.zeros_like(weight_LC)
        tokens, channels = x_TC.shape
        for first, last in stretches(0, tokens, channels):
            for j in range(plan.taps):
                _backward_tap(x_TC, grad_TC, weight_LC, plan, (j, first, last), grad_x, grad_weight_LC)
        if history_NJC is not None:
            _backward_history(history_NJC, grad_TC, plan, grad_weight_LC)
        grad_state = None
        if ctx.needs_input_grad[2]:
            grad_state = _state_gradient(history_NJC, grad_TC, weight_LC, plan)
        return grad_x.to(x_TC.dtype), grad_weight_LC.t().to(weight_CL.dtype), grad_state, None, None, None


def _backward_tap(x_TC, grad_TC, weight_LC, plan, place, grad_x, grad_weight_LC) -> None:
    """Add tap j's share of the rows [first, last) to both gradients."""
    j, first, last = place
    shift = plan.taps - 1 - j
    first = max(first, shift)
    if first >= last:
        return
    grad = grad_TC[first:last]
    crossing = plan.crossing_rows(first, last, shift)
    if crossing:
        grad = grad.index_fill(0, torch.tensor(crossing, device=grad.device), 0.0)
    grad_x[first - shift : last - shift] += grad * weight_LC[j]
    grad_weight_LC[j] += (grad * x_TC[first - shift : last - shift]).sum(0)


def _backward_history(history_NJC, grad_TC, plan: ConvPlan, grad_weight_LC) -> None:
    """Add the share of inputs from before the call to the weight's gradient."""
    wide = history_NJC.to(grad_TC.dtype)
    if plan.has_history_NJ1 is not None:
        wide = torch.where(plan.has_history_NJ1, wide, wide.new_zeros(()))
    ends = (*plan.offsets[1:], grad_TC.shape[0])
    for n, (offset, end) in enumerate(zip(plan.offsets, ends)):
        for i in range(min(plan.taps - 1, end - offset)):
            # Row i of the sequence meets history input i + j at tap j.
            count = plan.taps - 1 - i
            grad_weight_LC[:count] += wide[n, i : i + count] * grad_TC[offset + i]


def _state_gradient(history_NJC, grad_TC, weight_LC, plan: ConvPlan) -> torch.Tensor:
    """Gradient of the inputs before each sequence's first row."""
    grad_NJC = torch.zeros_like(history_NJC, dtype=grad_TC.dtype)
    ends = (*plan.offsets[1:], grad_TC.shape[0])
    for n, (offset, end) in enumerate(zip(plan.offsets, ends)):
        for i in range(min(plan.taps - 1, end - offset)):
            # Row i meets state input i + j at tap j.
            grad_NJC[n, i:] += weight_LC[: plan.taps - 1 - i] * grad_TC[offset + i]
    return grad_NJC.to(history_NJC.dtype)
