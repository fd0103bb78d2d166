"""Mixture of experts: which experts a token goes to, and what they return. Dropless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from hyla.errors import ConfigError
from hyla.ops.exact import rows
from hyla.ops.moe.pytorch import Experts, experts_forward, group_rows, stacked
from hyla.ops.moe.routing import select, top_k
from hyla.ops.quant import FP8Stack

__all__ = ["experts", "packed_experts", "route", "top_k"]

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
        weights_Tk = weights_Tk / (weights_Tk.sum(-1, keepdim=True) + NORMALIZE_EPS[score])
    return weights_Tk * scaling, ids_Tk


def experts(
    x_TD: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    gate_EID: torch.Tensor | None,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    activation: Literal["swiglu", "relu2"] = "swiglu",
) -> torch.Tensor:
    """y_t = sum_j w_tj down_e(silu(gate_e x_t) * up_e x_t), e = ids_tj, added in the order j = 0, 1, ..., k - 1.

    With activation "relu2" an expert is down_e(relu(up_e x_t)^2) (Nemotron) and has no gate.

    Args:
        x_TD: [T, D], the model's dtype; expert weights [E, I, D], [E, I, D], [E, D, I] in the same dtype. gate_EID is
            None exactly when the activation is "relu2".
        weights_Tk: [T, k], fp32 (float64 for float64). ids_Tk: int64 [T, k], different within a row.

    Returns: [T, D] in x's dtype; the sum over slots is fp32 and rounded once. Differentiable to x, the weights of the
        slots and the experts.
    Raises: ConfigError for a gate that the activation does not have, or lacks.
    Cost: cost.py. Exactness: no token is dropped, and a row's bits do not depend on T or on the other rows.
    """
    if (gate_EID is None) != (activation == "relu2"):
        raise ConfigError(f"experts: activation {activation} with{'out' if gate_EID is None else ''} gate weights")
    tensors = (x_TD, weights_Tk, gate_EID, up_EID, down_EDI)
    groups = group_rows(ids_Tk, up_EID.shape[0])
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return Experts.apply(*tensors, groups)
    return experts_forward(x_TD, weights_Tk, groups, *stacked(gate_EID, up_EID, down_EDI), activation)[0]


def packed_experts(
    x_TD: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    gate_up_E: Sequence[rows.Packed | torch.Tensor] | FP8Stack,
    down_E: Sequence[rows.Packed | torch.Tensor] | FP8Stack,
    activation: Literal["swiglu", "relu2"] = "swiglu",
) -> torch.Tensor:
    """`experts` with packed tensors (`ops.exact.rows.pack`) per expert, or an `ops.quant.FP8Stack` of all: gate over up
    [2 I, D] (relu2: up) and down [D, I].

    Bit for bit the same; no gradient through packed weights (raises BackendUnavailable), to the rows through FP8 ones.
    """
    groups = group_rows(ids_Tk, len(gate_up_E))
    into, out_of = (
        weights if isinstance(weights, FP8Stack) else weights.__getitem__ for weights in (gate_up_E, down_E)
    )
    return experts_forward(x_TD, weights_Tk, groups, into, out_of, activation)[0]
