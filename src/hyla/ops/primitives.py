"""Element-wise and row-wise functions whose result for a row never depends on the other rows.

PyTorch's own `sigmoid`, `silu` and `softplus` change in the last bit with an element's place in a SIMD tail
(bench/invariance.py shows which do); `exp`, `log1p`, `sqrt` and `+ - * /` do not. The layers use only what is here,
and tests/ops/test_primitives.py keeps it so.
"""

from __future__ import annotations

import torch


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)), any shape, in x's dtype (callers pass fp32 or float64)."""
    return 1.0 / (1.0 + torch.exp(-x))


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x)."""
    return x / (1.0 + torch.exp(-x))


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)) without overflow: max(x, 0) + log1p(exp(-|x|))."""
    return x.clamp_min(0.0) + torch.log1p(torch.exp(-x.abs()))


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, *, eps: float, zero_centered: bool = False) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * w over the last dimension, computed in fp32 (float64 for float64), in x's dtype.

    w is `weight`, or `1 + weight` when zero_centered (Qwen3-Next), or 1 when None.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)
    if weight is not None:
        scale = weight.to(wide.dtype)
        normed = normed * (scale + 1.0 if zero_centered else scale)
    return normed.to(x.dtype)


def l2_norm(x: torch.Tensor, *, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(sum(x^2) + eps) over the last dimension."""
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + eps)


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension of an fp32 or float64 tensor."""
    weights = torch.exp(x - x.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True)
