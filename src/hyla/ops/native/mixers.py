"""What stands around the operators without a solve (mixers.c): fp32 or bf16 on the CPU, without autograd."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import as_rows, is_bf16
from hyla.ops.native.launching import empty, launch

ACTIVATIONS = {"none": 0, "sigmoid": 1, "silu": 2}


class ActivatedCall(Structure):
    """The struct `Activated` of mixers.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "x_row", "x_bf16", "which")),
        *((name, c_void_p) for name in ("x", "y")),
    )


def activated(x_TC: torch.Tensor, activation: str) -> torch.Tensor:
    """Rows in fp32, through a function of `ACTIVATIONS`."""
    x_TC = as_rows(x_TC)
    y = empty(x_TC.shape, torch.float32)
    sizes = (*x_TC.shape, x_TC.stride(0), is_bf16(x_TC), ACTIVATIONS[activation])
    launch("activated", ActivatedCall(*sizes, x_TC.data_ptr(), y.data_ptr()), x_TC, y)
    return y


class GroupNormCall(Structure):
    """The struct `GroupNorm` of mixers.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "groups", "width", "gate_row", "gate_bf16", "which", "is_gate_first")),
        *((name, c_int64) for name in ("w_bf16", "y_bf16", "head", "skip_row")),
        *((name, c_void_p) for name in ("x", "gate", "weight", "skip", "factor", "y")),
        ("eps", c_float),
    )


def group_norm(
    x_TC: torch.Tensor,
    gate_TC: torch.Tensor,
    weight_C: torch.Tensor,
    skip: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    groups: int,
    eps: float,
    activation: str,
    is_gate_first: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """RMSNorm of groups of channels of fp32 x, under an activated gate before or after it, rounded once: [T, C].

    skip: (fp32 [T, C], fp32 [H]) is added before all, each head times its factor.
    """
    x_TC, gate_TC, weight_C = x_TC.contiguous(), as_rows(gate_TC), weight_C.contiguous()
    y = empty(x_TC.shape, dtype)
    call = GroupNormCall(x_TC.shape[0], groups, x_TC.shape[1] // groups, gate_TC.stride(0), is_bf16(gate_TC))
    call.which, call.is_gate_first = ACTIVATIONS[activation], int(is_gate_first)
    call.w_bf16, call.y_bf16, call.eps = is_bf16(weight_C), is_bf16(y), eps
    if skip is not None:
        rows_TC, factor_H = as_rows(skip[0]), skip[1].contiguous()
        skip = (rows_TC, factor_H)
        call.head, call.skip_row = x_TC.shape[1] // factor_H.shape[0], rows_TC.stride(0)
        call.skip, call.factor = rows_TC.data_ptr(), factor_H.data_ptr()
    for name, tensor in (("x", x_TC), ("gate", gate_TC), ("weight", weight_C), ("y", y)):
        setattr(call, name, tensor.data_ptr())
    launch("group_norm", call, x_TC, gate_TC, weight_C, skip, y)
    return y


class RatesCall(Structure):
    """The struct `Rates` of mixers.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "heads", "head", "channels", "dt_row", "dt_bf16", "bias_bf16")),
        *((name, c_void_p) for name in ("convolved", "bias", "dt", "dt_bias", "rate", "mixed", "values", "log_decay")),
        *((name, c_float) for name in ("low", "high")),
    )


def rates(
    convolved_TC: torch.Tensor,
    bias_C: torch.Tensor,
    dt_TH: torch.Tensor,
    dt_bias_H: torch.Tensor,
    rate_H: torch.Tensor,
    *,
    head_dim: int,
    limit: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """silu(convolved + bias) [T, C]; its first channels by head times dt, [T, H, P]; rate dt [T, H]: fp32.

    dt = softplus(raw dt + dt_bias) within `limit`.
    """
    convolved_TC, bias_C, dt_TH = convolved_TC.contiguous(), bias_C.contiguous(), as_rows(dt_TH)
    dt_bias_H, rate_H = dt_bias_H.contiguous(), rate_H.contiguous()
    tokens, heads = dt_TH.shape
    mixed = empty(convolved_TC.shape, torch.float32)
    values, log_decay = empty((tokens, heads, head_dim), torch.float32), empty((tokens, heads), torch.float32)
    call = RatesCall(tokens, heads, head_dim, convolved_TC.shape[1], dt_TH.stride(0), is_bf16(dt_TH), is_bf16(bias_C))
    call.low, call.high = limit
    kept = (convolved_TC, bias_C, dt_TH, dt_bias_H, rate_H, mixed, values, log_decay)
    names = ("convolved", "bias", "dt", "dt_bias", "rate", "mixed", "values", "log_decay")
    for name, tensor in zip(names, kept):
        setattr(call, name, tensor.data_ptr())
    launch("rates", call, *kept)
    return mixed, values, log_decay
