"""What stands around the operators without a solve: compositions of primitives that one kernel computes each.

On the CPU a kernel computes each (ops/native/mixers.c), with the bits of the composition, and another one its gradient
where it takes much of a step (ops/native/norms_grad.c); elsewhere the composition has gradients.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

from hyla.ops.backends import uses_native
from hyla.ops.exact import primitives
from hyla.ops.exact.primitives import wide
from hyla.ops.native import DTYPES, gradients, mixers

Activation = Literal["none", "sigmoid", "silu"]


def _is_differentiable(*tensors: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _has_kernels(*tensors: torch.Tensor) -> bool:
    return uses_native(tensors[0]) and all(x.dtype in DTYPES for x in tensors)


def _is_fused(*tensors: torch.Tensor) -> bool:
    return not _is_differentiable(*tensors) and _has_kernels(*tensors)


def _activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    return {"none": lambda y: y, "sigmoid": primitives.sigmoid, "silu": primitives.silu}[activation](wide(x))


def constant_row(value: float, like: torch.Tensor) -> torch.Tensor:
    """One number in each channel [1, C] of what [T, C] has, kept: a step that is recorded makes no new tensor."""
    return _row_of(value, like.shape[-1], like.dtype, like.device)


@cache
def _row_of(value: float, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # it may be saved for a backward pass later
        return torch.full((1, width), value, dtype=dtype, device=device)


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
    tensors = (x_TC, gate_TC, weight_C, *(skip or ()))
    if _has_kernels(*tensors):
        options = {"groups": groups, "eps": eps, "activation": activation, "is_gate_first": is_gate_first}
        if _is_differentiable(*tensors):
            return _GatedGroupNorm.apply(x_TC, gate_TC, weight_C, *(skip or (None, None)), dtype, options)
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


class _GatedGroupNorm(torch.autograd.Function):
    """By the CPU's kernels, both ways; saves its inputs only."""

    @staticmethod
    def forward(ctx, x_TC, gate_TC, weight_C, rows_TC, factor_H, dtype, options):
        ctx.save_for_backward(x_TC, gate_TC, weight_C, rows_TC, factor_H)
        ctx.options = options
        skip = None if rows_TC is None else (rows_TC, factor_H)
        return mixers.group_norm(x_TC, gate_TC, weight_C, skip, dtype=dtype, **options)

    @staticmethod
    def backward(ctx, grad_TC):
        x_TC, gate_TC, weight_C, rows_TC, factor_H = ctx.saved_tensors
        skip = None if rows_TC is None else (rows_TC, factor_H)
        x_grad, gate_grad, weight_grad, *rest = gradients.gated_norm(
            grad_TC, x_TC, gate_TC, wide(weight_C), skip, **ctx.options
        )
        return x_grad, gate_grad, weight_grad.to(weight_C.dtype), *(rest or (None, None)), None, None


def rates_and_values(
    convolved_TC: torch.Tensor,
    bias_C: torch.Tensor | None,
    dt_TH: torch.Tensor,
    dt_bias_H: torch.Tensor,
    rate_H: torch.Tensor,
    *,
    head_dim: int,
    limit: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What Mamba-2 makes of a convolution and of raw time steps: all in fp32 (float64 for float64).

    Args:
        convolved_TC: fp32 (float64); the first channels are those of the heads, `head_dim` each.
        bias_C: its bias; None: zeros.
        dt_TH: raw steps, any dtype.  dt_bias_H, rate_H: fp32, rates < 0.
        limit: the least and the largest step.
    Returns: silu(convolved + bias) [T, C]; the heads' channels of it times their steps, [T, H, P]; log decays, rates
        times steps, [T, H]. A step is softplus(raw + bias) within its limits.
    """
    if bias_C is None:
        bias_C = constant_row(0.0, convolved_TC)[0]
    tensors = (convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H)
    if _has_kernels(*tensors):
        if _is_differentiable(*tensors):
            return _RatesAndValues.apply(*tensors, head_dim, limit)
        return mixers.rates(convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H, head_dim=head_dim, limit=limit)
    mixed_TC = primitives.silu(convolved_TC + wide(bias_C))
    dt_TH = primitives.softplus(wide(dt_TH) + dt_bias_H).clamp(*limit)
    x_THV = mixed_TC[:, : dt_TH.shape[1] * head_dim].unflatten(-1, (dt_TH.shape[1], head_dim))
    return mixed_TC, x_THV * dt_TH[..., None], rate_H * dt_TH


class _RatesAndValues(torch.autograd.Function):
    """By the CPU's kernels, both ways; saves its inputs only."""

    @staticmethod
    def forward(ctx, convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H, head_dim, limit):
        ctx.save_for_backward(convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H)
        ctx.limit = limit
        return mixers.rates(convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H, head_dim=head_dim, limit=limit)

    @staticmethod
    def backward(ctx, *grads):
        inputs = ctx.saved_tensors
        convolved_TC, bias_C, *rest = inputs
        found = gradients.rates(grads, convolved_TC, wide(bias_C), *rest, limit=ctx.limit)
        return *(grad.to(x.dtype) for grad, x in zip(found, inputs)), None, None
