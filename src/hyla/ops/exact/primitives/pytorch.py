"""The primitives' forward passes, composed of operations whose elements do not depend on their place. Any device."""

from __future__ import annotations

import torch

from hyla.ops.backends import runs_anywhere
from hyla.ops.exact.sums import sum_last

unsupported = runs_anywhere


def wide(x: torch.Tensor) -> torch.Tensor:
    """x in fp32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1.0 / x.neg().exp_().add_(1.0)


def silu(x: torch.Tensor) -> torch.Tensor:
    # Not x * sigmoid(x): one rounding less.
    return x / x.neg().exp_().add_(1.0)


def silu_backward(x: torch.Tensor, sigmoid_of_x: torch.Tensor) -> torch.Tensor:
    """Derivative of silu."""
    return sigmoid_of_x * (1.0 + x * (1.0 - sigmoid_of_x))


def exp(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return silu(wide(gate)).mul_(up).to(up.dtype)


def relu2(x: torch.Tensor) -> torch.Tensor:
    positive = wide(x).clamp_min(0.0)
    return (positive * positive).to(x.dtype)


def sigmoid_gate(x: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (x * sigmoid(gate.to(x.dtype))).to(dtype)


def softplus(x: torch.Tensor) -> torch.Tensor:
    return x.abs().neg_().exp_().log1p_().add_(x.clamp_min(0.0))


def root_mean_square(x: torch.Tensor, eps: float) -> torch.Tensor:
    return sum_last(x * x).div_(x.shape[-1]).add_(eps).sqrt_()


def scale_of(weight: torch.Tensor, dtype: torch.dtype, zero_centered: bool) -> torch.Tensor:
    """The factor that a norm's weight stands for."""
    return weight.to(dtype) + 1.0 if zero_centered else weight.to(dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float, zero_centered: bool) -> torch.Tensor:
    values = wide(x)
    normed = values / root_mean_square(values, eps)
    if weight is not None:
        normed *= scale_of(weight, values.dtype, zero_centered)
    return normed.to(x.dtype)


def root_sum_square(x: torch.Tensor, eps: float) -> torch.Tensor:
    return sum_last(x * x).add_(eps).sqrt_()


def l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / root_sum_square(x, eps)


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    weights = (x - x.amax(-1, keepdim=True)).exp_()
    return weights / sum_last(weights)


def scaled(x: torch.Tensor, factor: float, dtype: torch.dtype) -> torch.Tensor:
    return (x if factor == 1.0 else wide(x) * factor).to(dtype)


def weighted_sum(x: torch.Tensor, y: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    if alpha == beta == 1.0:
        return x + y
    return (wide(x) * alpha + wide(y) * beta).to(x.dtype)


def concatenated(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts)


def decays(raw, raw_beta_TH, A_log_H, dt_bias, lower_bound: float | None):
    z_THK = (wide(raw) + dt_bias).unflatten(-1, (A_log_H.shape[0], -1))
    rate_H1 = torch.exp(wide(A_log_H))[:, None]
    if lower_bound is None:
        log_decay_THK = -rate_H1 * softplus(z_THK)
    else:
        log_decay_THK = lower_bound * sigmoid(rate_H1 * z_THK)
    beta_TH = None if raw_beta_TH is None else sigmoid(wide(raw_beta_TH))
    return log_decay_THK.flatten(1), beta_TH


def gated_norm(x_THV, weight_V, gate_TW, *, eps: float, zero_centered: bool, activation: str, dtype: torch.dtype):
    gate = {"silu": silu, "sigmoid": sigmoid}[activation](wide(gate_TW)).view(x_THV.shape)
    return (rms_norm(x_THV, weight_V, eps, zero_centered) * gate).flatten(1).to(dtype)
