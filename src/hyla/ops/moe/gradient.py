"""The gradients of the router's weights, and of the experts, over rows grouped by expert."""

from __future__ import annotations

import torch

from hyla.ops.backends import choose
from hyla.ops.exact.primitives import OPERATOR, sum_last, wide
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
    """apply(x, weights, ids, gate or None, up, down, module, activation) -> y, by the backend's `forward`.

    Saves the inputs and the products with gate and up; recomputes the rest. A row's gradient depends on that row alone.
    """

    @staticmethod
    def forward(ctx, x_TD, weights_Tk, ids_Tk, gate_EID, up_EID, down_EDI, module, activation):
        into = Plain((up_EID,) if gate_EID is None else (gate_EID, up_EID))
        y_TD, gate_up_AF, groups = module.forward(x_TD, weights_Tk, ids_Tk, into, Plain((down_EDI,)), activation)
        ctx.save_for_backward(x_TD, weights_Tk, gate_EID, up_EID, down_EDI, gate_up_AF)
        ctx.groups, ctx.activation, ctx.module = groups, activation, module
        return y_TD

    @staticmethod
    def backward(ctx, grad_TD):
        x_TD, weights_Tk, gate_EID, up_EID, down_EDI, gate_up_AF = ctx.saved_tensors
        groups: Groups = ctx.groups
        stacks = (up_EID,) if gate_EID is None else (gate_EID, up_EID)
        grad_AD, x_AD = grad_TD[groups.tokens_A], x_TD[groups.tokens_A]
        weights_A = weights_Tk.flatten()[groups.order_A]
        # y = w down(act): the gradient of act before the factor w also gives w's.
        grad_act_AI = _backward_rows(grad_AD, (down_EDI,), groups)
        to_in_AF, act_AI, grad_weights_A = ACTIVATION_GRADIENTS[ctx.activation](grad_act_AI, gate_up_AF, weights_A)
        grad_x_AD = _backward_rows(to_in_AF, stacks, groups)
        to_stacks = to_in_AF.chunk(len(stacks), dim=-1)
        grads = [_backward_weights(part, x_AD, stack, groups) for part, stack in zip(to_stacks, stacks)]
        grads.append(_backward_weights(grad_AD, act_AI, down_EDI, groups))
        # The slots of a token are added in order, not scattered: the gradient repeats bit for bit.
        grad_x = ctx.module.joined(grad_x_AD, groups, torch.ones_like(weights_Tk))
        no_gate = (None,) if gate_EID is None else ()
        return grad_x, grad_weights_A[groups.rows_A].view_as(weights_Tk), None, *no_gate, *grads, None, None


def _backward_rows(grad_AF: torch.Tensor, stacks: tuple[torch.Tensor, ...], groups: Groups) -> torch.Tensor:
    """Gradients of the rows that met the experts' matrices, which stand over one another: [A, D]."""
    parts = grad_AF.split([stack.shape[1] for stack in stacks], dim=-1)
    found = [Plain((stack.detach().mT,)).grouped(part, groups.found) for part, stack in zip(parts, stacks)]
    return found[0] if len(found) == 1 else found[0].add_(found[1])


def _backward_weights(grad_AO: torch.Tensor, x_AD: torch.Tensor, stack: torch.Tensor, groups: Groups) -> torch.Tensor:
    """The gradient of a stack [E, O, D]: zero for experts without rows."""
    grad_EOD = torch.zeros_like(stack)
    for expert, first, last in groups.spans:
        # Not as in `exact.gradients`: the number of rows changes with every call, and oneDNN compiles for each.
        grad_RO, x_RD = wide(grad_AO[first:last]), wide(x_AD[first:last])
        if stack.dtype == grad_RO.dtype:
            torch.mm(grad_RO.t(), x_RD, out=grad_EOD[expert])
        else:
            grad_EOD[expert] = grad_RO.t() @ x_RD
    return grad_EOD


def _swiglu(grad_AI, gate_up_AF, weights_A):
    """The gradients of gate and up, the weighed activations, and the gradients of the weights."""
    return choose(OPERATOR, grad_AI).swiglu_grad(grad_AI, *gate_up_AF.chunk(2, dim=-1), weights_A)


def _relu2(grad_AI, up_AI, weights_A):
    """The same of an activation without a gate."""
    dtype, weights_A1 = grad_AI.dtype, weights_A[:, None]
    positive_AI, grad_AI = wide(up_AI).clamp_min(0.0), wide(grad_AI)
    act_AI = positive_AI * positive_AI
    grad_up_AI = (grad_AI * weights_A1 * 2.0 * positive_AI).to(dtype)
    return grad_up_AI, (act_AI * weights_A1).to(dtype), sum_last(act_AI * grad_AI)[:, 0]


ACTIVATION_GRADIENTS = {"swiglu": _swiglu, "relu2": _relu2}
"""The backward pass of an activation and of the weights behind it, by name."""
