"""Experts over rows grouped by expert.

Every (token, slot) pair is a row; rows are sorted by expert (stably), each expert multiplies its rows with the
row-exact product, and the results go back to their slots, which are then added in order. So a token's result is the
same whatever company it comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.ops.activations import ACTIVATIONS, activate
from hyla.ops.backends import runs_anywhere
from hyla.ops.weights.plain import Plain
from hyla.ops.weights.protocol import Span, Weights

unsupported = runs_anywhere


@dataclass(frozen=True)
class Groups:
    """Rows of one call, A = T k of them, by expert."""

    spans: list[Span]
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


def experts_forward(x_TD, weights_Tk, groups: Groups, into: Weights, out_of: Weights, activation: str):
    """The result [T, D] and, for the backward pass, the products with gate and up [A, 2 I] (no gate: up, [A, I])."""
    if x_TD.shape[0] == 0:
        return x_TD.clone(), x_TD
    gate_up_AF = into.grouped(x_TD[groups.tokens_A], groups.spans)
    act_AI = activate(activation, *gate_up_AF.chunk(1 + ACTIVATIONS[activation].has_gate, dim=-1))
    out_AD = out_of.grouped(act_AI, groups.spans)
    slots_TkD = out_AD[groups.rows_A].view(*weights_Tk.shape, -1)
    y_TD = slots_TkD[:, 0] * weights_Tk[:, :1]
    for j in range(1, weights_Tk.shape[1]):
        y_TD += slots_TkD[:, j] * weights_Tk[:, j : j + 1]
    return y_TD.to(x_TD.dtype), gate_up_AF


class Experts(torch.autograd.Function):
    """`experts_forward` with gradients. Saves the inputs and the products with gate and up; recomputes the rest."""

    @staticmethod
    def forward(ctx, x_TD, weights_Tk, gate_EID, up_EID, down_EDI, groups, activation):
        into = Plain((up_EID,) if gate_EID is None else (gate_EID, up_EID))
        y_TD, gate_up_AF = experts_forward(x_TD, weights_Tk, groups, into, Plain((down_EDI,)), activation)
        ctx.save_for_backward(x_TD, weights_Tk, gate_EID, up_EID, down_EDI, gate_up_AF)
        ctx.groups, ctx.activation = groups, activation
        return y_TD

    @staticmethod
    def backward(ctx, grad_TD):
        x_TD, weights_Tk, gate_EID, up_EID, down_EDI, gate_up_AF = ctx.saved_tensors
        stacks = (up_EID, down_EDI) if gate_EID is None else (gate_EID, up_EID, down_EDI)
        grads = [torch.zeros_like(weight) for weight in stacks]
        backward_expert = EXPERT_GRADIENTS[ctx.activation]
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
        return grad_x, grad_weights_A[groups.rows_A].view_as(weights_Tk), *no_gate, *grads, None, None


def _backward_swiglu(x_RD, weights_R1, grad_RD, gate_up_RF, weights, grads):
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


EXPERT_GRADIENTS = {"swiglu": _backward_swiglu, "relu2": _backward_relu2}
"""By activation: the gradients of one expert's rows."""

forward = experts_forward
