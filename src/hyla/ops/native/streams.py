"""The residual stream's kernels (stream.c) as functions on tensors on the CPU, fp32 or bf16, without autograd."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import as_rows, is_bf16
from hyla.ops.native.launching import empty, launch


class SumCall(Structure):
    """The struct `Sum` of stream.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "x_stride", "y_stride", "x_bf16", "y_bf16", "z_bf16")),
        *((name, c_void_p) for name in ("x", "y", "z")),
        *((name, c_float) for name in ("alpha", "beta")),
    )


def weighted_sum(x: torch.Tensor, y: torch.Tensor, alpha: float = 1.0, beta: float = 1.0) -> torch.Tensor:
    """alpha x + beta y of one shape and dtype, in fp32, rounded once."""
    x_RW, y_RW = as_rows(x), as_rows(y)
    z = empty(x.shape, x.dtype)
    call = SumCall(*x_RW.shape, x_RW.stride(0), y_RW.stride(0), is_bf16(x), is_bf16(y), is_bf16(z))
    call.x, call.y, call.z, call.alpha, call.beta = x_RW.data_ptr(), y_RW.data_ptr(), z.data_ptr(), alpha, beta
    launch("sum", call, x_RW, y_RW, z)
    return z


def scaled(x: torch.Tensor, factor: float, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """factor x in fp32, rounded once to dtype. out: dense memory for it."""
    x_RW = as_rows(x)
    z = empty(x.shape, dtype) if out is None else out
    call = SumCall(*x_RW.shape, x_RW.stride(0), 0, is_bf16(x), 0, is_bf16(z))
    call.x, call.z, call.alpha = x_RW.data_ptr(), z.data_ptr(), factor
    launch("sum", call, x_RW, z)
    return z


def concatenated(*parts: torch.Tensor) -> torch.Tensor:
    """Vectors of one dtype after one another."""
    sizes = [part.shape[0] for part in parts]
    whole = empty((sum(sizes),), parts[0].dtype)
    for part, place in zip(parts, whole.split(sizes)):
        scaled(part, 1.0, whole.dtype, out=place)
    return whole
