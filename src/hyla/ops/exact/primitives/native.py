"""The primitives' forward passes by the CPU's own kernels (ops/native/elementwise.c, stream.c); what has none is
PyTorch's."""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.exact.primitives import pytorch
from hyla.ops.native import gates, kernels, moes, streams

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


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    return pytorch.softmax_last(x) if _is_narrow(x) else moes.softmax(x)


def exp(x: torch.Tensor) -> torch.Tensor:
    return pytorch.exp(x) if _is_narrow(x) else kernels.unary("exp", x)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    if gate.dtype != up.dtype:
        return silu(pytorch.wide(gate)).mul_(up).to(up.dtype)
    return kernels.swiglu(gate, up)


def sigmoid_gate(x: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if _is_narrow(x):
        return (x * sigmoid(gate.to(x.dtype))).to(dtype)
    return kernels.sigmoid_gate(x, gate, dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float, zero_centered: bool) -> torch.Tensor:
    return kernels.norm(x, weight, shift=float(zero_centered), eps=eps, divisor=x.shape[-1])


def l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return pytorch.l2_norm(x, eps) if _is_narrow(x) else kernels.norm(x, None, shift=0.0, eps=eps, divisor=1.0)


def decays(raw, raw_beta_TH, A_log_H, dt_bias, lower_bound: float | None):
    return gates.decays(raw, raw_beta_TH, pytorch.wide(A_log_H), pytorch.wide(dt_bias), lower_bound)


def gated_norm(x_THV, weight_V, gate_TW, *, eps: float, zero_centered: bool, activation: str, dtype: torch.dtype):
    options = {"shift": float(zero_centered), "eps": eps, "activation": activation, "dtype": dtype}
    return gates.gated_norm(x_THV, weight_V, gate_TW, **options)
