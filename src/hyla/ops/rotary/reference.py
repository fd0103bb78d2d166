"""Norm and rotation, pair by pair as complex numbers: the truth that other forms are compared with."""

from __future__ import annotations

import torch


def norm_and_rotate_reference(x_THK, weight_K, cos_sin_TR, *, eps, zero_centered=False, interleaved=False):
    """What `hyla.ops.rotary.norm_and_rotate` does, pair by pair, in the inputs' dtype (give float64)."""
    if eps is not None:
        weight_K = weight_K + 1.0 if zero_centered else weight_K
        x_THK = x_THK / (x_THK.square().mean(-1, keepdim=True) + eps).sqrt() * weight_K
    if cos_sin_TR is None:
        return x_THK
    half = cos_sin_TR.shape[1] // 2
    factors = torch.complex(cos_sin_TR[:, :half], cos_sin_TR[:, half:])
    y_THK = x_THK.clone()
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        turned_TH = torch.complex(x_THK[:, :, first], x_THK[:, :, second]) * factors[:, i, None]
        y_THK[:, :, first], y_THK[:, :, second] = turned_TH.real, turned_TH.imag
    return y_THK
