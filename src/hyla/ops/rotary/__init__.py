"""Rotary position embedding of heads, after an RMS norm where a model has one on its queries and keys."""

from __future__ import annotations

import torch

from hyla.ops.backends import choose
from hyla.ops.exact.primitives import rms_norm, wide
from hyla.ops.rotary import pytorch
from hyla.ops.rotary.gradient import Rotation

__all__ = ["norm_and_rotate", "rotate"]


def norm_and_rotate(
    x_THK: torch.Tensor,
    weight_K: torch.Tensor | None,
    cos_sin_TR: torch.Tensor | None,
    *,
    eps: float | None,
    zero_centered: bool = False,
    interleaved: bool,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Heads in their final form: RMS norm, rotation, one rounding.

    y = rotate(x / sqrt(mean(x^2) + eps) w), w = weight, or 1 + weight when zero_centered; then rounded to dtype.
    Source: RoPE arXiv 2104.09864, section 3.2.2; norms of queries and keys arXiv 2010.04245.

    Args:
        x_THK: [T, H, K], bf16, fp32 or float64.
        weight_K: [K], with eps; None: no norm.
        cos_sin_TR: [T, R], cosines then sines of each row's angles, in fp32 (float64 for float64), R <= K; None: no
            rotation.
        eps: of the norm, None without one.
        zero_centered: the weight is stored less one.
        interleaved: channels 2i and 2i + 1 are a pair, instead of i and i + R / 2.
        dtype: of the result; None: fp32 (float64 for float64).
    Returns: [T, H, K].
    Cost: cost.py. Exactness: a row's bits depend on that row alone; all backends agree on the rotation, and on the
        norm as far as `exact.primitives.rms_norm` does.
    """
    inputs = (x_THK, weight_K)
    options = {"eps": eps, "zero_centered": zero_centered, "interleaved": interleaved, "dtype": dtype}
    if not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in inputs):
        return choose("rotary", *inputs).forward(x_THK, weight_K, cos_sin_TR, **options)
    # One after the other, each with its gradient; the same bits as both at once.
    if cos_sin_TR is None:
        return pytorch.forward(x_THK, weight_K, None, **options)
    if eps is not None:
        x_THK = rms_norm(wide(x_THK), weight_K, eps=eps, zero_centered=zero_centered)
    return _turn(x_THK, cos_sin_TR, interleaved, dtype)


def rotate(x_THK: torch.Tensor, cos_sin_TR: torch.Tensor, *, interleaved: bool = False) -> torch.Tensor:
    """The rotation alone: `norm_and_rotate` without a norm, in fp32 (float64 for float64)."""
    if torch.is_grad_enabled() and x_THK.requires_grad:
        return _turn(x_THK, cos_sin_TR, interleaved, None)
    return pytorch.rotate(x_THK, cos_sin_TR, interleaved=interleaved)


def _turn(x_THK: torch.Tensor, cos_sin_TR: torch.Tensor, interleaved: bool, dtype: torch.dtype | None) -> torch.Tensor:
    return Rotation.apply(x_THK, cos_sin_TR, interleaved, cos_sin_TR.dtype if dtype is None else dtype)
