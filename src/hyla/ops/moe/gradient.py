"""The gradients of the router's weights, and of the experts, one expert's rows at a time."""

from __future__ import annotations

import torch

from hyla.ops.moe.groups import Groups
from hyla.ops.moe.routing import score_of, weigh
from hyla.ops.weights.plain import Plain


class Route(torch.autograd.Function):
    """apply(logits, bias, route, options) -> (weights, ids), by the backend's `route`.

    The choice is a constant; the scores are computed again.
    """

    @staticmethod
    def forward(ctx, logits_TE, bias_E, route, options):
        weights_Tk, ids_Tk = route(logits_TE, bias_E, **options)
        ctx.save_for_backward(logits_TE, ids_Tk)
        ctx.options = {name: options[name] for name in ("score", "normalize", "scaling")}
        ctx.mark_non_differentiable(ids_Tk)
        return weights_Tk, ids_Tk

    @staticmethod
    def backward(ctx, grad_Tk, _):
        logits_TE, ids_Tk = ctx.saved_tensors
        with torch.enable_grad():
            logits_TE = logits_TE.detach().requires_grad_()
            weights_Tk = weigh(score_of(logits_TE, ctx.options["score"]), ids_Tk, **ctx.options)
        return *torch.autograd.grad(weights_Tk, logits_TE, grad_Tk), None, None, None


class Experts(torch.autograd.Function):
    """apply(x, weights, ids, gate or None, up, down, forward, activation) -> y, by the backend's `forward`.

    Saves the inputs and the products with gate and up; recomputes the rest.
    """

    @staticmethod
    def forward(ctx, x_TD, weights_Tk, ids_Tk, gate_EID, up_EID, down_EDI, forward, activation):
        into = Plain((up_EID,) if gate_EID is None else (gate_EID, up_EID))
        y_TD, gate_up_AF, groups = forward(x_TD, weights_Tk, ids_Tk, into, Plain((down_EDI,)), activation)
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
        return grad_x, grad_weights_A[groups.rows_A].view_as(weights_Tk), None, *no_gate, *grads, None, None


def _backward_swiglu(x_RD, weights_R1, grad_RD, gate_up_RF, weights, grads):
    """Backward pass of one expert's rows: gradients to x and to the slots' weights; fills those of the expert."""
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
    """`_backward_swiglu` of an expert without a gate."""
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
"""The backward pass of one expert's rows, by activation."""
