"""Mixture of experts: which experts a token goes to, and what they return. Dropless."""

from __future__ import annotations

from typing import Literal

import torch

from hyla.errors import ConfigError
from hyla.ops.activations import ACTIVATIONS
from hyla.ops.backends import choose
from hyla.ops.exact.sums import row_sum
from hyla.ops.moe.gradient import Experts
from hyla.ops.moe.groups import group_rows
from hyla.ops.moe.routing import select, top_k
from hyla.ops.weights.plain import Plain
from hyla.ops.weights.protocol import Weights

__all__ = ["experts", "route", "top_k"]

NORMALIZE_EPS = {"softmax": 0.0, "sigmoid": 1e-20}
"""Added to the sum of the selected scores before dividing by it, as the published models do."""


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose k experts for every token, and their weights.

    scores = softmax or sigmoid of the logits; the k largest of scores + bias are chosen, inside the best groups when
    there are groups (a group's score is the sum of its two largest biased scores). A weight is the score without bias,
    divided by the sum of the chosen ones when `normalize`, times `scaling`.
    Source: softmax: arXiv 2101.03961 with renormalised top-k (Mixtral, Qwen); sigmoid, bias and groups: DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2.

    Args: logits_TE: fp32 (or float64) [T, E]; bias_E: [E] in the same dtype, or None.
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
    scores_TE, ids_Tk = select(
        logits_TE,
        bias_E,
        num_chosen=num_experts_per_token,
        score=score,
        num_groups=num_groups,
        num_groups_kept=num_groups_kept,
    )
    weights_Tk = scores_TE.gather(1, ids_Tk)
    if normalize:
        weights_Tk = weights_Tk / (row_sum(weights_Tk)[..., None] + NORMALIZE_EPS[score])
    return weights_Tk * scaling, ids_Tk


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
        slots and plain experts; to x alone through FP8 ones.
    Raises: ConfigError for a gate that the activation does not have, or lacks; BackendUnavailable when a gradient is
        asked through packed experts.
    Cost: cost.py. Exactness: no token is dropped, and a row's bits do not depend on T or on the other rows.
    """
    has_gate = into.shape[1] != out_of.shape[2]
    if has_gate != ACTIVATIONS[activation].has_gate:
        raise ConfigError(f"experts: activation {activation} with{'' if has_gate else 'out'} gate weights")
    groups, forward = group_rows(ids_Tk, into.shape[0]), choose("moe", x_TD).forward
    if isinstance(into, Plain) and isinstance(out_of, Plain) and torch.is_grad_enabled():
        tensors = (x_TD, weights_Tk, *((None,) if not has_gate else ()), *into.parts, *out_of.parts)
        if any(tensor is not None and tensor.requires_grad for tensor in tensors):
            return Experts.apply(*tensors, forward, groups, activation)
    return forward(x_TD, weights_Tk, groups, into, out_of, activation)[0]
