"""The convolution as L multiply-adds over shifted rows.

Rows whose whole window lies in this call (the body) are read where they stand, a stretch of rows at a time, so that
the temporaries stay in the cache and nothing is gathered. The first rows of each sequence (the heads) are computed
from a small buffer of their inputs. Both do the same L products and L - 1 sums per element, in the same order.
"""

from __future__ import annotations

import torch

from hyla.ops.backends import runs_anywhere
from hyla.ops.batch import Batch
from hyla.ops.short_conv.plan import ConvPlan, conv_plan
from hyla.ops.short_conv.tail import keep_tail

unsupported = runs_anywhere

STRETCH_ELEMENTS = 1 << 18
"""Elements of one stretch of rows: 1 MiB of fp32."""


def forward(x_TC: torch.Tensor, weight_CL: torch.Tensor, batch: Batch, ring=None, tail=None) -> torch.Tensor:
    """The forward pass; reads the ring, then extends it and sets the tail."""
    x_TC, plan = x_TC.detach(), conv_plan(batch, weight_CL.shape[1])
    if ring is not None and tail is not None:
        keep_tail(x_TC, plan, ring, tail)
    weight_LC = taps_first(weight_CL, x_TC.dtype)
    heads_NMC = _head_rows(x_TC, weight_LC, plan, ring)
    if plan.is_decode:
        y_TC = heads_NMC.squeeze(1)
    else:
        y_TC = torch.empty_like(x_TC, dtype=weight_LC.dtype, memory_format=torch.contiguous_format)
        if plan.has_body:
            _body_rows(x_TC, weight_LC, y_TC)
        y_TC[plan.head_rows_R] = heads_NMC.flatten(0, 1)[plan.head_places_R]
    if ring is not None:
        kept_WC = x_TC if plan.kept_rows_W is None else x_TC[plan.kept_rows_W]
        ring[plan.kept_slots_W, plan.kept_ring_W] = kept_WC
    return y_TC


def taps_first(weight_CL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[L, C], contiguous, in the dtype of the computation."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.empty(weight_CL.shape[::-1], dtype=wide, device=weight_CL.device).copy_(weight_CL.detach().t())


def _head_rows(x_TC, weight_LC, plan: ConvPlan, ring) -> torch.Tensor:
    """The first M rows of every sequence, [N, M, C]; places past a sequence's end hold junk."""
    new_NMC = x_TC[:, None] if plan.is_decode else x_TC[plan.head_source_NM]
    if plan.taps == 1:
        return new_NMC * weight_LC[0]
    if ring is None:
        history_NJC = new_NMC.new_zeros(new_NMC.shape[0], plan.taps - 1, new_NMC.shape[2])
    else:
        history_NJC = ring[plan.slots_N1, plan.history_NJ]
        if plan.has_history_NJ1 is not None:
            history_NJC = torch.where(plan.has_history_NJ1, history_NJC, history_NJC.new_zeros(()))
    window_NWC = torch.cat([history_NJC, new_NMC], dim=1)
    y_NMC = window_NWC[:, : plan.num_heads] * weight_LC[0]
    for j in range(1, plan.taps):
        y_NMC += window_NWC[:, j : j + plan.num_heads] * weight_LC[j]
    return y_NMC


def stretches(first: int, last: int, channels: int):
    """Consecutive row ranges that cover [first, last)."""
    rows = max(1, STRETCH_ELEMENTS // channels)
    return [(start, min(start + rows, last)) for start in range(first, last, rows)]


def _body_rows(x_TC: torch.Tensor, weight_LC: torch.Tensor, y_TC: torch.Tensor) -> None:
    """All rows from L - 1 on as if the batch were one sequence; the head rows among them are overwritten later."""
    taps, (tokens, channels) = weight_LC.shape[0], x_TC.shape
    for first, last in stretches(taps - 1, tokens, channels):
        y = y_TC[first:last]
        torch.mul(x_TC[first - taps + 1 : last - taps + 1], weight_LC[0], out=y)
        product = torch.empty_like(y)
        for j in range(1, taps):
            shift = taps - 1 - j
            torch.mul(x_TC[first - shift : last - shift], weight_LC[j], out=product)
            y += product


def backward(grad_TC, x_TC, weight_CL, history_NJC, plan: ConvPlan, wants_state: bool):
    """Gradients of x [T, C], of the weight [C, L] and, where it is wanted, of the inputs before the call [N, L - 1, C],
    each in its dtype, from that of `forward`'s rows.

    history: those inputs; None: there were none. A row's gradient is added tap by tap, wherever the row lies.
    """
    weight_LC = taps_first(weight_CL, x_TC.dtype)
    grad_TC = grad_TC.to(weight_LC.dtype)
    grad_x, grad_weight_LC = torch.zeros_like(grad_TC), torch.zeros_like(weight_LC)
    for first, last in stretches(0, *x_TC.shape):
        for j in range(plan.taps):
            _backward_tap(x_TC, grad_TC, weight_LC, plan, (j, first, last), grad_x, grad_weight_LC)
    grad_state = None
    if history_NJC is not None:
        _backward_history(history_NJC, grad_TC, plan, grad_weight_LC)
        grad_state = _state_gradient(history_NJC, grad_TC, weight_LC, plan) if wants_state else None
    return grad_x.to(x_TC.dtype), grad_weight_LC.t().to(weight_CL.dtype), grad_state


def _backward_tap(x_TC, grad_TC, weight_LC, plan: ConvPlan, place, grad_x, grad_weight_LC) -> None:
    """Add tap j's share of the inputs [first, last) to both gradients."""
    j, first, last = place
    shift = plan.taps - 1 - j
    last = min(last, x_TC.shape[0] - shift)
    if first >= last:
        return
    grad = grad_TC[first + shift : last + shift]
    crossing = plan.crossing_rows(first + shift, last + shift, shift)
    if crossing:
        grad = grad.index_fill(0, torch.tensor(crossing, device=grad.device), 0.0)
    grad_x[first:last] += grad * weight_LC[j]
    grad_weight_LC[j] += (grad * x_TC[first:last]).sum(0)


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
