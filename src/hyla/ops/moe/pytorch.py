"""Experts over rows grouped by expert.

Every (token, slot) pair is a row; rows are sorted by expert (stably), each expert multiplies its rows with the
row-exact product, and the results go back to their slots, which are then added in order. So a token's result is the
same whatever company it comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hyla.ops.backends import runs_anywhere
from hyla.ops.exact.primitives import relu2, swiglu
from hyla.ops.quant import FP8Stack, grouped, linear

unsupported = runs_anywhere

WeightOf = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Groups:
    """Rows of one call, A = T k of them, by expert."""

    spans: list[tuple[int, int, int]]
    """(expert, first row, last row + 1) of each expert that has rows."""
    order_A: torch.Tensor
    """int64: flat (token, slot) pair of each row."""
    tokens_A: torch.Tensor
    """int64: token of each row."""
    rows_A: torch.Tensor
    """int64: row of each flat (token, slot) pair."""


def group_rows(ids_Tk: torch.Tensor, num_experts: int) -> Groups:
    """Sort the (token, slot) pairs by expert. Reads the counts on the host."""
    flat_A = ids_Tk.flatten()
    order_A = flat_A.sort(stable=True)[1]
    rows_A = torch.empty_like(order_A)
    rows_A[order_A] = torch.arange(flat_A.numel(), device=flat_A.device)
    spans, first = [], 0
    for expert, count in enumerate(torch.bincount(flat_A, minlength=num_experts).tolist()):
        if count:
            spans.append((expert, first, first + count))
            first += count
    return Groups(spans, order_A, order_A // ids_Tk.shape[1], rows_A)


def stacked(gate_EID: torch.Tensor | None, up_EID, down_EDI) -> tuple[WeightOf, WeightOf]:
    """One expert's weights from the stacked parameters: gate (if there is one) over up, and down."""
    if gate_EID is None:
        return up_EID.__getitem__, down_EDI.__getitem__
    return lambda e: torch.cat([gate_EID[e], up_EID[e]]), lambda e: down_EDI[e]


def _products(rows_AD: torch.Tensor, groups: Groups, weight_of: WeightOf | FP8Stack) -> torch.Tensor:
    """Each expert's product with its rows."""
    if isinstance(weight_of, FP8Stack):
        return grouped(rows_AD, groups.spans, weight_of)
    parts = [linear(rows_AD[first:last], weight_of(expert)) for expert, first, last in groups.spans]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def experts_forward(x_TD, weights_Tk, groups: Groups, gate_up_of, down_of, activation: str):
    """The result [T, D] and, for the backward pass, the products with gate and up [A, 2 I] (relu2: up, [A, I]).

    gate_up_of, down_of: an expert's weights by its number, or all of them as an `FP8Stack`.
    """
    if x_TD.shape[0] == 0:
        return x_TD.clone(), x_TD
    gate_up_AF = _products(x_TD[groups.tokens_A], groups, gate_up_of)
    act_AI = relu2(gate_up_AF) if activation == "relu2" else swiglu(*gate_up_AF.chunk(2, dim=-1))
    out_AD = _products(act_AI, groups, down_of)
    slots_TkD = out_AD[groups.rows_A].view(*weights_Tk.shape, -1)
    y_TD = slots_TkD[:, 0] * weights_Tk[:, :1]
    for j in range(1, weights_Tk.shape[1]):
        y_TD += slots_TkD[:, j] * weights_Tk[:, j : j + 1]
    return y_TD.to(x_TD.dtype), gate_up_AF


class Experts(torch.autograd.Function):
    """`experts_forward` with gradients. Saves the inputs and the products with gate and up; recomputes the rest."""

    @staticmethod
    def forward(ctx, x_TD, weights_Tk, gate_EID, up_EID, down_EDI, groups):
        activation = "relu2" if gate_EID is None else "swiglu"
        y_TD, gate_up_AF = experts_forward(x_TD, weights_Tk, groups, *stacked(gate_EID, up_EID, down_EDI), activation)
        ctx.save_for_backward(x_TD, weights_Tk, gate_EID, up_EID, down_EDI, gate_up_AF)
        ctx.groups = groups
        return y_TD

    @staticmethod
    def backward(ctx, grad_TD):
        x_TD, weights_Tk, gate_EID, up_EID, down_EDI, gate_up_AF = ctx.saved_tensors
        stacks = (up_EID, down_EDI) if gate_EID is None else (gate_EID, up_EID, down_EDI)
        grads = [torch.zeros_like(weight) for weight in stacks]
        backward_expert = _backward_relu2 if gate_EID is None else _backward_expert
        groups: Groups = ctx.groups
        weights_A1 = weights_Tk.flatten()[groups.order_A, None]
        grad_rows_AD, x_AD = grad_TD[groups.tokens_A], x_TD[groups.tokens_A]
        grad_x_AD, grad_weights_A = torch.empty_like(x_AD), torch.empty_like(weights_A1[:, 0])
        for expert, first, last in groups.spans:
            rows = slice(first, last)
            weights = [stack[expert] for stack in stacks]
            grad_x_AD[rows], grad_weights_A[rows] = backward_expert(
                x_AD[rows], weights_A1[rows], grad_rows_AD[rows], gate_up_AF[rows], weights, [g[expert] for g in grads]
            )
        # The slots of a token are added in order, not scattered: the gradient repeats bit for bit.
        grad_x_TkD = grad_x_AD[groups.rows_A].view(*weights_Tk.shape, -1)
        grad_x = grad_x_TkD.to(weights_Tk.dtype).sum(1).to(x_TD.dtype)
        no_gate = (None,) if gate_EID is None else ()
        return grad_x, grad_weights_A[groups.rows_A].view_as(weights_Tk), *no_gate, *grads, None


def _backward_expert(x_RD, weights_R1, grad_RD, gate_up_RF, weights, grads):
    """One expert's rows: gradients to x and to the slots' weights; fills the expert's own."""
    gate, up, down = weights
    grad_gate, grad_up, grad_down = grads
    dtype = x_RD.dtype
    gate_RI, up_RI = gate_up_RF.to(weights_R1.dtype).chunk(2, dim=-1)
    sigmoid_RI = torch.sigmoid(gate_RI)
    silu_RI = gate_RI * sigmoid_RI
    act_RI = silu_RI * up_RI
    # y = w down(act): its gradient to act before the factor w also gives the gradient to w.
    grad_act_RI = (grad_RD @ down).to(weights_R1.dtype)
    grad_weights_R = (act_RI * grad_act_RI).sum(-1)
    torch.mm(grad_RD.t(), (act_RI * weights_R1).to(dtype), out=grad_down)
    grad_act_RI = grad_act_RI * weights_R1
    to_gate = (grad_act_RI * up_RI * sigmoid_RI * (1.0 + gate_RI * (1.0 - sigmoid_RI))).to(dtype)
    to_up = (grad_act_RI * silu_RI).to(dtype)
    torch.mm(to_gate.t(), x_RD, out=grad_gate)
    torch.mm(to_up.t(), x_RD, out=grad_up)
    return to_gate @ gate + to_up @ up, grad_weights_R


def _backward_relu2(x_RD, weights_R1, grad_RD, up_RI, weights, grads):
    """`_backward_expert` of an expert without a gate."""
    up, down = weights
    grad_up, grad_down = grads
    dtype = x_RD.dtype
    positive_RI = up_RI.to(weights_R1.dtype).clamp_min(0.0)
    act_RI = positive_RI * positive_RI
    grad_act_RI = (grad_RD @ down).to(weights_R1.dtype)
    grad_weights_R = (act_RI * grad_act_RI).sum(-1)
    torch.mm(grad_RD.t(), (act_RI * weights_R1).to(dtype), out=grad_down)
    to_up = (grad_act_RI * weights_R1 * 2.0 * positive_RI).to(dtype)
    torch.mm(to_up.t(), x_RD, out=grad_up)
    return to_up @ up, grad_weights_R
