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


def sigmoid_grad(y: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return grad * y * (1.0 - y)


def silu_grad(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return grad * silu_backward(x, sigmoid(x))


def softplus_grad(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return grad * sigmoid(x)


def exp(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return silu(wide(gate)).mul_(up).to(up.dtype)


def swiglu_grad(grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, weights_R: torch.Tensor | None = None):
    """Gradients of gate and up beside one another; with weights, one a row, also what `Experts` needs: silu(gate) up
    times them, and their gradients."""
    dtype, act, weight_grad = grad.dtype, None, None
    gate, up, grad = wide(gate), wide(up), wide(grad)
    if weights_R is not None:
        weighted = silu(gate) * up
        weight_grad = sum_last(weighted * grad)[:, 0]
        act, grad = (weighted * weights_R[:, None]).to(dtype), grad * weights_R[:, None]
    to_gate, to_up = grad * up * silu_backward(gate, sigmoid(gate)), grad * silu(gate)
    return torch.cat([to_gate, to_up], dim=-1).to(dtype), act, weight_grad


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


def _norm_grad(grad, values, root, divisor: float, weight):
    """Gradients of x and of a weight in x's dtype, from that of x / root weight."""
    normed, grad_weight = values / root, None
    if weight is not None:
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad = grad * weight
    return (grad - normed * (sum_last(grad * normed) / divisor)) / root, grad_weight


def rms_norm_grad(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, eps: float, zero_centered: bool):
    """Gradients of x and of the weight (None without one), in their dtypes."""
    values = wide(x)
    scale = None if weight is None else scale_of(weight, values.dtype, zero_centered)
    grad_x, grad_weight = _norm_grad(wide(grad), values, root_mean_square(values, eps), x.shape[-1], scale)
    return grad_x.to(x.dtype), None if grad_weight is None or weight is None else grad_weight.to(weight.dtype)


def root_sum_square(x: torch.Tensor, eps: float) -> torch.Tensor:
    return sum_last(x * x).add_(eps).sqrt_()


def l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / root_sum_square(x, eps)


def l2_norm_grad(grad: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    return _norm_grad(grad, x, root_sum_square(x, eps), 1.0, None)[0]


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


def decays_grad(grad, raw, A_log_H, dt_bias, lower_bound: float | None):
    """Gradients of raw, A_log and dt_bias from that of the log decays."""
    z_THK = (wide(raw) + dt_bias).unflatten(-1, (A_log_H.shape[0], -1))
    rate_H1 = torch.exp(wide(A_log_H))[:, None]
    grad_THK = grad.view(z_THK.shape)
    if lower_bound is None:
        by_z, by_A_log = -rate_H1 * sigmoid(z_THK), -rate_H1 * softplus(z_THK)
    else:
        y = sigmoid(rate_H1 * z_THK)
        by_z = lower_bound * y * (1.0 - y) * rate_H1
        by_A_log = by_z * z_THK
    grad_z = (grad_THK * by_z).flatten(1)
    grad_A_log_H = (grad_THK * by_A_log).sum((0, 2))
    return grad_z.to(raw.dtype), grad_A_log_H.to(A_log_H.dtype), grad_z.sum(0).to(dt_bias.dtype)


def gated_norm(x_THV, weight_V, gate_TW, *, eps: float, zero_centered: bool, activation: str, dtype: torch.dtype):
    gate = {"silu": silu, "sigmoid": sigmoid}[activation](wide(gate_TW)).view(x_THV.shape)
    return (rms_norm(x_THV, weight_V, eps, zero_centered) * gate).flatten(1).to(dtype)


def row_sums(logits_RV: torch.Tensor):
    """The largest of each row [R], and the sum of e^(logit - largest) [R], as `chunk_loss` takes them."""
    most_R1 = logits_RV.amax(-1, keepdim=True)
    return most_R1[:, 0], sum_last((logits_RV - most_R1).exp_())[:, 0]


def chunk_loss(logits_RV: torch.Tensor, targets_R: torch.Tensor, scale: float | None):
    """`hyla.ops.exact.cross_entropy.chunk_loss`."""
    logits_RV -= logits_RV.amax(-1, keepdim=True)
    picked_R = logits_RV.gather(1, targets_R[:, None])[:, 0]
    weights_RV = logits_RV.exp_()
    sums_R1 = sum_last(weights_RV)
    losses_R, found_RV = sums_R1[:, 0].log() - picked_R, weights_RV.div_(sums_R1)
    if scale is not None:
        found_RV[torch.arange(targets_R.shape[0], device=targets_R.device), targets_R] -= 1.0
        found_RV *= scale
    return losses_R, found_RV
