"""The gates of the delta rules: what their decays, betas and outputs are made of.

As `primitives`, of which they are the compositions that one kernel computes: the forward pass is the same code with and
without autograd.
"""

from __future__ import annotations

from typing import Literal

import torch

from hyla.ops.backends import choose, uses_native
from hyla.ops.exact import primitives
from hyla.ops.exact.mixers import in_floats
from hyla.ops.exact.primitives import OPERATOR, wide
from hyla.ops.exact.primitives.pytorch import scale_of
from hyla.ops.native import gradients


def decays_and_betas(
    raw: torch.Tensor,
    raw_beta_TH: torch.Tensor,
    A_log_H: torch.Tensor,
    dt_bias: torch.Tensor,
    *,
    lower_bound: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log decays, <= 0, in raw's shape, and betas [T, H] in (0, 1), both in fp32 (float64 for float64).

    -exp(A_log) softplus(raw + dt_bias), or lower_bound sigmoid(exp(A_log) (raw + dt_bias)); sigmoid(raw_beta).

    Args:
        raw: [T, H] or, with a decay for each channel, [T, H K], as a projection left it.  raw_beta_TH: [T, H].
        A_log_H: [H], the log of each head's rate.  dt_bias: raw's last dimension.
        lower_bound: of the log decays, < 0; None: there is none.
    """
    inputs = (raw, raw_beta_TH, A_log_H, dt_bias)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        log_decay = _LogDecay.apply(raw, A_log_H, dt_bias, lower_bound)
        return log_decay, primitives.sigmoid(wide(raw_beta_TH))
    return choose(OPERATOR, raw, raw_beta_TH).decays(raw, raw_beta_TH, A_log_H, dt_bias, lower_bound)


class _LogDecay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw, A_log_H, dt_bias, lower_bound):
        ctx.save_for_backward(raw, A_log_H, dt_bias)
        ctx.lower_bound = lower_bound
        return choose(OPERATOR, raw).decays(raw, None, A_log_H, dt_bias, lower_bound)[0]

    @staticmethod
    def backward(ctx, grad):
        raw, A_log_H, dt_bias = ctx.saved_tensors
        return *choose(OPERATOR, raw).decays_grad(grad, raw, A_log_H, dt_bias, ctx.lower_bound), None


def betas(raw_TH: torch.Tensor, *, negative_eigenvalues: bool = False) -> torch.Tensor:
    """sigmoid(raw), or twice that, [T, H] in fp32 (float64 for float64), of raw ones that may be part of wider rows."""
    beta_TH = in_floats(raw_TH, "sigmoid")
    return doubled(beta_TH) if negative_eigenvalues else beta_TH


def doubled(beta_TH: torch.Tensor) -> torch.Tensor:
    """Betas in (0, 2): I - beta k k^T has eigenvalues in (-1, 1) where k has unit length (arXiv 2411.12537)."""
    return primitives.scaled(beta_TH, 2.0, beta_TH.dtype)


def per_channel(log_decay_TH: torch.Tensor, channels: int) -> torch.Tensor:
    """One log decay a head as one for each of its channels, [T, H, K]; a gradient is the sum over them."""
    if torch.is_grad_enabled() and log_decay_TH.requires_grad:
        return _PerChannel.apply(log_decay_TH, channels)
    return log_decay_TH[..., None].expand(-1, -1, channels).contiguous()


class _PerChannel(torch.autograd.Function):
    """Its own backward pass: a row's sum must not depend on the number of rows (`sum_last`)."""

    @staticmethod
    def forward(ctx, log_decay_TH, channels):
        return log_decay_TH[..., None].expand(-1, -1, channels).contiguous()

    @staticmethod
    def backward(ctx, grad_THK):
        return primitives.sum_last(grad_THK)[..., 0], None


def gated_norm(
    x_THV: torch.Tensor,
    weight_V: torch.Tensor,
    gate_TW: torch.Tensor,
    *,
    eps: float,
    zero_centered: bool = False,
    activation: Literal["silu", "sigmoid"],
    dtype: torch.dtype,
) -> torch.Tensor:
    """RMSNorm of each head, times its activated gate, rounded once: [T, H V] in dtype.

    x_THV: [T, H, V] in fp32 (float64); gate_TW: [T, H V] in any dtype; the norm is `primitives.rms_norm`'s.
    """
    inputs = (x_THV, weight_V, gate_TW)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        if all(map(uses_native, inputs)):
            return _GatedNorm.apply(x_THV, weight_V, gate_TW, eps, zero_centered, activation, dtype)
        # Composed of the primitives, which have gradients; the same bits as the kernel.
        normed = primitives.rms_norm(x_THV, weight_V, eps=eps, zero_centered=zero_centered)
        gate = {"silu": primitives.silu, "sigmoid": primitives.sigmoid}[activation](wide(gate_TW))
        return (normed * gate.view(x_THV.shape)).flatten(1).to(dtype)
    options = {"eps": eps, "zero_centered": zero_centered, "activation": activation, "dtype": dtype}
    return choose(OPERATOR, *inputs).gated_norm(x_THV, weight_V, gate_TW, **options)


class _GatedNorm(torch.autograd.Function):
    """By the CPU's kernels, both ways; saves its inputs only."""

    @staticmethod
    def forward(ctx, x_THV, weight_V, gate_TW, eps, zero_centered, activation, dtype):
        ctx.save_for_backward(x_THV, weight_V, gate_TW)
        ctx.eps, ctx.zero_centered, ctx.activation = eps, zero_centered, activation
        options = {"eps": eps, "zero_centered": zero_centered, "activation": activation, "dtype": dtype}
        return choose(OPERATOR, x_THV, weight_V, gate_TW).gated_norm(x_THV, weight_V, gate_TW, **options)

    @staticmethod
    def backward(ctx, grad_TW):
        x_THV, weight_V, gate_TW = ctx.saved_tensors
        scale_V = scale_of(weight_V, torch.float32, ctx.zero_centered)
        options = {"groups": x_THV.shape[1], "eps": ctx.eps, "activation": ctx.activation, "is_gate_first": False}
        x_grad, gate_grad, weight_grad = gradients.gated_norm(grad_TW, x_THV.flatten(1), gate_TW, scale_V, **options)
        return x_grad.view(x_THV.shape), weight_grad.to(weight_V.dtype), gate_grad, None, None, None, None
