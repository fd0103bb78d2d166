"""The primitives by the CPU's own kernels (ops/native/elementwise.c, stream.c; gradients: elementwise_grad.c,
norms_grad.c); what has none is PyTorch's."""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.exact.primitives import pytorch
from hyla.ops.native import gates, gradients, kernels, moes, streams

unsupported = native.unsupported

concatenated, relu2, scaled, weighted_sum = streams.concatenated, streams.relu2, streams.scaled, streams.weighted_sum


def _is_narrow(x: torch.Tensor) -> bool:
    """The kernels of single functions are for fp32; callers give nothing else that gets here."""
    return x.dtype != torch.float32


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return pytorch.sigmoid(x) if _is_narrow(x) else kernels.unary("sigmoid", x)


def silu(x: torch.Tensor) -> torch.Tensor:
    return pytorch.silu(x) if _is_narrow(x) else kernels.unary("silu", x)


def softplus(x: torch.Tensor) -> torch.Tensor:
    return pytorch.softplus(x) if _is_narrow(x) else kernels.unary("softplus", x)


def sigmoid_grad(y: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return pytorch.sigmoid_grad(y, grad) if _is_narrow(y) else gradients.unary("sigmoid", y, grad)


def silu_grad(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return pytorch.silu_grad(x, grad) if _is_narrow(x) else gradients.unary("silu", x, grad)


def softplus_grad(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return pytorch.softplus_grad(x, grad) if _is_narrow(x) else gradients.unary("softplus", x, grad)


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    return pytorch.softmax_last(x) if _is_narrow(x) else moes.softmax(x)


def exp(x: torch.Tensor) -> torch.Tensor:
    return pytorch.exp(x) if _is_narrow(x) else kernels.unary("exp", x)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    if gate.dtype != up.dtype:
        return silu(pytorch.wide(gate)).mul_(up).to(up.dtype)
    return kernels.swiglu(gate, up)


def swiglu_grad(grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, weights_R: torch.Tensor | None = None):
    if not gate.dtype == up.dtype == grad.dtype:
        return pytorch.swiglu_grad(grad, gate, up, weights_R)
    return gradients.swiglu(grad, gate, up, weights_R)


def sigmoid_gate(x: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if _is_narrow(x):
        return (x * sigmoid(gate.to(x.dtype))).to(dtype)
    return kernels.sigmoid_gate(x, gate, dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float, zero_centered: bool) -> torch.Tensor:
    return kernels.norm(x, weight, shift=float(zero_centered), eps=eps, divisor=x.shape[-1])


def rms_norm_grad(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None, eps: float, zero_centered: bool):
    scale = None if weight is None else pytorch.scale_of(weight, torch.float32, zero_centered)
    grad_x, grad_weight = gradients.norm(grad, x, scale, eps=eps, divisor=x.shape[-1])
    return grad_x, None if grad_weight is None or weight is None else grad_weight.to(weight.dtype)


def l2_norm_grad(grad: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    if _is_narrow(x):
        return pytorch.l2_norm_grad(grad, x, eps)
    return gradients.norm(grad, x, None, eps=eps, divisor=1.0)[0]


def chunk_loss(logits_RV: torch.Tensor, targets_R: torch.Tensor, scale: float | None):
    return gradients.chunk_loss(logits_RV, targets_R, scale)


def row_sums(logits_RV: torch.Tensor):
    return gradients.row_sums(logits_RV)


def l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return pytorch.l2_norm(x, eps) if _is_narrow(x) else kernels.norm(x, None, shift=0.0, eps=eps, divisor=1.0)


def decays(raw, raw_beta_TH, A_log_H, dt_bias, lower_bound: float | None):
    return gates.decays(raw, raw_beta_TH, pytorch.wide(A_log_H), pytorch.wide(dt_bias), lower_bound)


def decays_grad(grad, raw, A_log_H, dt_bias, lower_bound: float | None):
    grads = gradients.decays(grad, raw, pytorch.wide(A_log_H), pytorch.wide(dt_bias), lower_bound)
    return grads[0], grads[1].to(A_log_H.dtype), grads[2].to(dt_bias.dtype)


def gated_norm(x_THV, weight_V, gate_TW, *, eps: float, zero_centered: bool, activation: str, dtype: torch.dtype):
    options = {"shift": float(zero_centered), "eps": eps, "activation": activation, "dtype": dtype}
    return gates.gated_norm(x_THV, weight_V, gate_TW, **options)
