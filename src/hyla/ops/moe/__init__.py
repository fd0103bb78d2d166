"""Mixture of experts: which experts a token goes to, and what they return. Dropless."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from hyla.errors import ConfigError
from hyla.ops.activations import ACTIVATIONS
from hyla.ops.backends import choose
from hyla.ops.exact.primitives import scaled
from hyla.ops.moe import pytorch
from hyla.ops.moe.gradient import Experts, Route
from hyla.ops.moe.routing import Replay, replayed, top_k
from hyla.ops.weights.plain import Plain
from hyla.ops.weights.protocol import Weights

__all__ = ["add_shared", "experts", "route", "scores", "top_k"]


def route(
    logits_TE: torch.Tensor,
    bias_E: torch.Tensor | None,
    *,
    num_experts_per_token: int,
    score: Literal["softmax", "sigmoid"],
    normalize: bool,
    num_groups: int = 1,
    num_groups_kept: int = 1,
    scaling: float = 1.0,
    replay: Replay | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose k experts for every token, and their weights.

    scores = softmax or sigmoid of the logits; the k largest of scores + bias are chosen, inside the best groups when
    there are groups (a group's score is the sum of its two largest biased scores). A weight is the score without bias,
    divided by the sum of the chosen ones when `normalize`, times `scaling`.
    Source: softmax: arXiv 2101.03961 with renormalised top-k (Mixtral, Qwen); sigmoid, bias and groups: DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2.

    Args: logits_TE: fp32 (or float64) [T, E]; bias_E: [E] in the same dtype, or None. replay: given the choice, the one
        to take instead (`routing.replayed`); the weights are those of the logits for it.
    Returns: weights [T, k] (differentiable to the logits) and int64 ids [T, k], largest biased score first; ties go to
        the lower expert.
    Raises: ConfigError when groups do not divide the experts or the kept groups hold fewer than k experts.
    Cost: cost.py. Exactness: a token's choice and weights do not depend on the other tokens.
    """
    num_experts = logits_TE.shape[1]
    if num_experts % num_groups or num_groups_kept * (num_experts // num_groups) < num_experts_per_token:
        raise ConfigError(
            f"route: {num_experts_per_token} of {num_experts} experts cannot be chosen from {num_groups_kept} of "
            f"{num_groups} groups; groups must divide the experts and the kept ones hold enough"
        )
    options = {
        "num_chosen": num_experts_per_token,
        "score": score,
        "normalize": normalize,
        "num_groups": num_groups,
        "num_groups_kept": num_groups_kept,
        "scaling": scaling,
    }
    compute = choose("moe", logits_TE).route
    if replay is not None:
        compute = partial(replayed, compute, replay)
    bias_E = None if bias_E is None else bias_E.detach()
    if torch.is_grad_enabled() and logits_TE.requires_grad:
        return Route.apply(logits_TE, bias_E, compute, options)
    return compute(logits_TE, bias_E, **options)


def scores(x_TD: torch.Tensor, router: Weights) -> torch.Tensor:
    """The router's logits [T, E] of rows in any dtype, in the router's (fp32, float64 for float64)."""
    return router.product(scaled(x_TD, 1.0, router.dtype))


def experts(
    x_TD: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    into: Weights,
    out_of: Weights,
    activation: str = "swiglu",
) -> torch.Tensor:
    """y_t = sum_j w_tj down_e(silu(gate_e x_t) * up_e x_t), e = ids_tj, added in the order j = 0, 1, ..., k - 1.

    With another activation (`ops.activations`) an expert is down_e(activation(..)), and may have no gate.

    Args:
        x_TD: [T, D], in the dtype of the experts' weights.
        weights_Tk: [T, k], fp32 (float64 for float64). ids_Tk: int64 [T, k], different within a row.
        into: stack of the experts' gate over up [E, 2 I, D] (no gate: up [E, I, D]), of any kind (`ops.weights`).
        out_of: stack of their down [E, D, I].

    Returns: [T, D] in x's dtype; the sum over slots is fp32 and rounded once. Differentiable to x, the weights of the
        slots and plain experts; to x alone through FP8 ones; to x and the low-rank terms of adapted ones.
    Raises: ConfigError for a gate that the activation does not have, or lacks; BackendUnavailable when a gradient is
        asked through packed experts.
    Cost: cost.py. Exactness: no token is dropped, and a row's bits do not depend on T or on the other rows.
    """
    has_gate = into.shape[1] != out_of.shape[2]
    if has_gate != ACTIVATIONS[activation].has_gate:
        raise ConfigError(f"experts: activation {activation} with{'' if has_gate else 'out'} gate weights")
    if x_TD.shape[0] == 0:
        return x_TD.clone()
    module = choose("moe", x_TD)
    forward = module.forward
    if torch.is_grad_enabled():
        if isinstance(into, Plain) and isinstance(out_of, Plain):
            tensors = (x_TD, weights_Tk, ids_Tk, *((None,) if not has_gate else ()), *into.parts, *out_of.parts)
            if any(tensor is not None and tensor.requires_grad for tensor in tensors):
                return Experts.apply(*tensors, module, activation)
        elif any(operand.requires_grad for operand in (x_TD, weights_Tk, into, out_of)):
            forward = pytorch.forward  # the same bits; what is stored otherwise has a gradient to the rows, or says no
    return forward(x_TD, weights_Tk, ids_Tk, into, out_of, activation)[0]


def add_shared(y_TD: torch.Tensor, shared_TD: torch.Tensor, gate_T1: torch.Tensor | None) -> torch.Tensor:
    """The routed experts' sum and the shared expert's, times sigmoid(gate) where there is one, rounded once.

    All are in one dtype. y: memory of the caller's own, which may be written to.
    """
    tensors = (y_TD, shared_TD, gate_T1)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return pytorch.add_shared(*tensors)
    return choose("moe", *tensors).add_shared(*tensors)
