"""Rotation of heads under autograd: a gradient is turned back by the same angles, by the same code."""

from __future__ import annotations

import torch

from hyla.ops.backends import uses_native
from hyla.ops.rotary import native, pytorch


class Rotation(torch.autograd.Function):
    """apply(x [T, H, K], cos_sin [T, R], interleaved, dtype) -> the rotated heads in dtype.

    y_i = x_i cos - x_j sin, y_j = x_j cos + x_i sin;  x'_i = y'_i cos + y'_j sin, x'_j = y'_j cos - y'_i sin
    """

    @staticmethod
    def forward(ctx, x_THK, cos_sin_TR, interleaved, dtype):
        ctx.cos_sin_TR, ctx.interleaved, ctx.dtype = cos_sin_TR, interleaved, x_THK.dtype
        return _rotated(x_THK, cos_sin_TR, interleaved, dtype)

    @staticmethod
    def backward(ctx, grad_THK):
        cos_TR, sin_TR = ctx.cos_sin_TR.chunk(2, dim=1)
        back_TR = torch.cat([cos_TR, -sin_TR], dim=1)
        return _rotated(grad_THK, back_TR, ctx.interleaved, ctx.dtype), None, None, None


def _rotated(x_THK: torch.Tensor, cos_sin_TR: torch.Tensor, interleaved: bool, dtype: torch.dtype) -> torch.Tensor:
    options = {"eps": None, "zero_centered": False, "interleaved": interleaved, "dtype": dtype}
    module = native if uses_native(x_THK) else pytorch  # the same bits
    return module.forward(x_THK, None, cos_sin_TR, **options)
