"""The gates of the delta rules (gates.c): fp32 or bf16 on the CPU, without autograd."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import is_bf16
from hyla.ops.native.launching import empty, launch

ACTIVATIONS = {"sigmoid": 0, "silu": 1}


class DecaysCall(Structure):
    """The struct `Decays` of gates.c."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "heads", "channels")),
        *((name, c_int64) for name in ("raw_row", "raw_bf16", "beta_row", "beta_bf16", "has_bound")),
        *((name, c_void_p) for name in ("raw", "raw_beta", "A_log", "dt_bias", "log_decay", "beta")),
        ("bound", c_float),
    )


def _with_dense_rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def decays(
    raw: torch.Tensor,
    raw_beta_TH: torch.Tensor | None,
    A_log_H: torch.Tensor,
    dt_bias: torch.Tensor,
    lower_bound: float | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log decays, of raw's shape [T, H] or [T, H K] in fp32, and betas [T, H] where raw ones are given.

    -exp(A_log) softplus(raw + dt_bias), or lower_bound sigmoid(exp(A_log) (raw + dt_bias)); sigmoid(raw_beta). A_log [H]
    and dt_bias are fp32.
    """
    raw, heads = _with_dense_rows(raw), A_log_H.shape[0]
    tokens, columns = raw.shape
    A_log_H, dt_bias = A_log_H.contiguous(), dt_bias.contiguous()
    log_decay, beta = empty(raw.shape, torch.float32), None
    call = DecaysCall(tokens, heads, columns // heads, raw.stride(0), is_bf16(raw))
    call.raw, call.A_log, call.dt_bias = raw.data_ptr(), A_log_H.data_ptr(), dt_bias.data_ptr()
    call.log_decay = log_decay.data_ptr()
    if lower_bound is not None:
        call.has_bound, call.bound = 1, lower_bound
    if raw_beta_TH is not None:
        raw_beta_TH, beta = _with_dense_rows(raw_beta_TH), empty(raw_beta_TH.shape, torch.float32)
        call.beta_row, call.beta_bf16 = raw_beta_TH.stride(0), is_bf16(raw_beta_TH)
        call.raw_beta, call.beta = raw_beta_TH.data_ptr(), beta.data_ptr()
    launch("decays", call, raw, raw_beta_TH, A_log_H, dt_bias, log_decay, beta)
    return log_decay, beta


class GatedNormCall(Structure):
    """The struct `GatedNorm` of gates.c."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "heads", "width", "gate_row")),
        *((name, c_int64) for name in ("which", "w_bf16", "gate_bf16", "y_bf16")),
        *((name, c_void_p) for name in ("x", "weight", "gate", "y")),
        *((name, c_float) for name in ("shift", "eps")),
    )


def gated_norm(
    x_THV: torch.Tensor,
    weight_V: torch.Tensor,
    gate_TW: torch.Tensor,
    *,
    shift: float,
    eps: float,
    activation: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """RMSNorm of each head of fp32 x, times its weight + shift and the activated gate, rounded once: [T, H V]."""
    x_THV, weight_V, gate_TW = x_THV.contiguous(), weight_V.contiguous(), _with_dense_rows(gate_TW)
    y = empty(gate_TW.shape, dtype)
    call = GatedNormCall(*x_THV.shape, gate_TW.stride(0), ACTIVATIONS[activation])
    call.w_bf16, call.gate_bf16, call.y_bf16 = is_bf16(weight_V), is_bf16(gate_TW), is_bf16(y)
    call.x, call.weight, call.gate = x_THV.data_ptr(), weight_V.data_ptr(), gate_TW.data_ptr()
    call.y, call.shift, call.eps = y.data_ptr(), shift, eps
    launch("gated_norm", call, x_THV, weight_V, gate_TW, y)
    return y
