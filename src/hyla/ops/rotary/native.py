"""Norm, rotation and rounding in one pass over the heads (ops/native/elementwise.c), with the bits of the three."""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.native import kernels

unsupported = native.unsupported


def forward(x_THK, weight_K, cos_sin_TR, *, eps, zero_centered: bool, interleaved: bool, dtype) -> torch.Tensor:
    """`norm_and_rotate` (see `hyla.ops.rotary`)."""
    numbers = {"shift": float(zero_centered), "interleaved": interleaved, "dtype": dtype or torch.float32}
    return kernels.norm_and_rotate(x_THK, weight_K, eps, cos_sin_TR, **numbers)
