"""The library behind a product where our kernels do not compute: oneDNN on the CPU, PyTorch's elsewhere."""

from __future__ import annotations

import platform
from functools import cache

import torch

from hyla.ops import backends


def has_library_layout(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the library has a layout of its own for weights there, which `reorder` makes."""
    if backends.is_portable(device):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16_layout())


@cache
def has_bf16_layout() -> bool:
    """oneDNN computes in bf16 only on processors with AVX-512 (or their like on ARM); elsewhere it refuses the call."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16. With AVX-512 alone oneDNN widens inside its kernels, at a tenth of the
    rate of fp32; without it the library behind `@` does, as slowly. (On ARM oneDNN computes in bf16 where both can.)"""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return has_bf16_layout() and (torch.cpu._is_avx512_bf16_supported() or not is_x86)


def reorder(weight_OD: torch.Tensor) -> torch.Tensor:
    """A weight of at most BLOCK_ELEMENTS in the library's own layout; undone by `to_dense`, exactly."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OD.contiguous(), 1)


def linear_once(x_RD: torch.Tensor, weight: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """One library call. On the CPU always oneDNN, the library that packed weights belong to."""
    if has_library_layout(x_RD.device, x_RD.dtype):
        return torch.ops.mkldnn._linear_pointwise(x_RD, weight, bias_O, "none", [], "")
    return torch.nn.functional.linear(x_RD, weight, bias_O)
