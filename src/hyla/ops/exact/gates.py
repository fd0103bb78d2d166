"""The gates of the delta rules: what their decays, betas and outputs are made of.

As `primitives`, of which they are the compositions that one kernel computes: the forward pass is the same code with and
without autograd.
"""

from __future__ import annotations

from typing import Literal

import torch

from hyla.ops.backends import choose
from hyla.ops.exact import primitives
from hyla.ops.exact.primitives import OPERATOR, wide


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
        z_THK = (wide(raw) + dt_bias).unflatten(-1, (A_log_H.shape[0], -1))
        rate_H1 = torch.exp(wide(A_log_H))[:, None]
        grad_THK = grad.view(z_THK.shape)
        if ctx.lower_bound is None:
            by_z = -rate_H1 * primitives.sigmoid(z_THK)
            by_A_log = -rate_H1 * primitives.softplus(z_THK)
        else:
            y = primitives.sigmoid(rate_H1 * z_THK)
            by_z = ctx.lower_bound * y * (1.0 - y) * rate_H1
            by_A_log = by_z * z_THK
        grad_z = (grad_THK * by_z).flatten(1)
        grad_A_log_H = (grad_THK * by_A_log).sum((0, 2))
        return grad_z.to(raw.dtype), grad_A_log_H.to(A_log_H.dtype), grad_z.sum(0).to(dt_bias.dtype), None


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
        # Composed of the primitives, which have gradients; the same bits as the kernel.
        normed = primitives.rms_norm(x_THV, weight_V, eps=eps, zero_centered=zero_centered)
        gate = {"silu": primitives.silu, "sigmoid": primitives.sigmoid}[activation](wide(gate_TW))
        return (normed * gate.view(x_THV.shape)).flatten(1).to(dtype)
    options = {"eps": eps, "zero_centered": zero_centered, "activation": activation, "dtype": dtype}
    return choose(OPERATOR, *inputs).gated_norm(x_THV, weight_V, gate_TW, **options)
