"""What stands around the operators without a solve: compositions of primitives that one kernel computes each.

The kernel is for inference on the CPU (ops/native/mixers.c) and has the bits of the composition, which has gradients.
"""

from __future__ import annotations

from typing import Literal

import torch

from hyla.ops.backends import uses_native
from hyla.ops.exact import primitives
from hyla.ops.exact.primitives import wide
from hyla.ops.native import DTYPES, mixers

Activation = Literal["none", "sigmoid", "silu"]


def _is_fused(*tensors: torch.Tensor) -> bool:
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    return uses_native(tensors[0]) and all(x.dtype in DTYPES for x in tensors)


def _activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    return {"none": lambda y: y, "sigmoid": primitives.sigmoid, "silu": primitives.silu}[activation](wide(x))


def in_floats(x_TC: torch.Tensor, activation: Activation = "none") -> torch.Tensor:
    """An activation of rows, which may be part of wider ones, in fp32 (float64 for float64)."""
    return mixers.activated(x_TC, activation) if _is_fused(x_TC) else _activate(x_TC, activation)


def gated_group_norm(
    x_TC: torch.Tensor,
    gate_TC: torch.Tensor,
    weight_C: torch.Tensor,
    *,
    groups: int,
    eps: float,
    activation: Activation,
    is_gate_first: bool,
    skip: tuple[torch.Tensor, torch.Tensor] | None = None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """RMSNorm of each of `groups` equal parts of the channels, times weight and activated gate, rounded once.

    x_TC: fp32 (float64); gate_TC: any dtype. is_gate_first: the norm is of x times the gate, not of x. skip: ([T, C],
    [H]) is added to x before all, the channels of each of H heads times its factor. Returns [T, C] in dtype.
    """
    if _is_fused(x_TC, gate_TC, weight_C, *(skip or ())):
        options = {"groups": groups, "eps": eps, "activation": activation, "is_gate_first": is_gate_first}
        return mixers.group_norm(x_TC, gate_TC, weight_C, skip, dtype=dtype, **options)
    if skip is not None:
        rows_TC, factor_H = skip
        x_TC = x_TC + (rows_TC.unflatten(-1, (factor_H.shape[0], -1)) * factor_H[:, None]).flatten(-2)
    gate_TC = _activate(gate_TC, activation)
    if is_gate_first:
        x_TC = x_TC * gate_TC
    normed_TGW = primitives.rms_norm(x_TC.unflatten(-1, (groups, -1)), None, eps=eps)
    y_TC = normed_TGW.flatten(-2) * wide(weight_C)
    return (y_TC if is_gate_first else y_TC * gate_TC).to(dtype)


def rates_and_values(
    convolved_TC: torch.Tensor,
    bias_C: torch.Tensor,
    dt_TH: torch.Tensor,
    dt_bias_H: torch.Tensor,
    rate_H: torch.Tensor,
    *,
    head_dim: int,
    limit: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What Mamba-2 makes of a convolution and of raw time steps: all in fp32 (float64 for float64).

    Args:
        convolved_TC: fp32 (float64); the first channels are those of the heads, `head_dim` each.  bias_C: its bias.
        dt_TH: raw steps, any dtype.  dt_bias_H, rate_H: fp32, rates < 0.
        limit: the least and the largest step.
    Returns: silu(convolved + bias) [T, C]; the heads' channels of it times their steps, [T, H, P]; log decays, rates
        times steps, [T, H]. A step is softplus(raw + bias) within its limits.
    """
    if _is_fused(convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H):
        return mixers.rates(convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H, head_dim=head_dim, limit=limit)
    mixed_TC = primitives.silu(convolved_TC + wide(bias_C))
    dt_TH = primitives.softplus(wide(dt_TH) + dt_bias_H).clamp(*limit)
    x_THV = mixed_TC[:, : dt_TH.shape[1] * head_dim].unflatten(-1, (dt_TH.shape[1], head_dim))
    return mixed_TC, x_THV * dt_TH[..., None], rate_H * dt_TH
