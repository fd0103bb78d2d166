"""Norm and rotation, one after the other. PyTorch, any device, differentiable, the default."""

from __future__ import annotations

import torch

from hyla.ops.backends import runs_anywhere
from hyla.ops.exact.primitives import rms_norm, wide

unsupported = runs_anywhere


def rotate(x_THK: torch.Tensor, cos_sin_TR: torch.Tensor, *, interleaved: bool = False) -> torch.Tensor:
    """Rotate the first R channels of each head: channel i with i + R / 2, or (interleaved) 2i with 2i + 1; fp32 or
    float64 out, in the layout that came in.

    x: [T, H, K], K >= R; cos_sin: [T, R], cosines then sines, in the dtype of the result.
    """
    x_THK = wide(x_THK)
    cos, sin = cos_sin_TR[:, None].chunk(2, dim=-1)
    half = cos.shape[-1]
    if interleaved:
        pairs, rest = x_THK.split([2 * half, x_THK.shape[-1] - 2 * half], dim=-1)
        even, odd = pairs[..., 0::2], pairs[..., 1::2]
        rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        return torch.cat([rotated.flatten(-2), rest], dim=-1)
    first, second, rest = x_THK.split([half, half, x_THK.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def forward(x_THK, weight_K, cos_sin_TR, *, eps, zero_centered: bool, interleaved: bool, dtype) -> torch.Tensor:
    """`norm_and_rotate` (see `hyla.ops.rotary`)."""
    x_THK = wide(x_THK)
    if eps is not None:
        x_THK = rms_norm(x_THK, weight_K, eps=eps, zero_centered=zero_centered)
    if cos_sin_TR is not None:
        x_THK = rotate(x_THK, cos_sin_TR, interleaved=interleaved)
    return x_THK if dtype is None else x_THK.to(dtype)
