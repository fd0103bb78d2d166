"""Gradients by rows (elementwise_grad.c, norms_grad.c, gates_grad.c, conv_grad.c) and of weights (weight_grad.c): fp32
or bf16 on the CPU.

A row's gradient depends on that row alone; those of weights are sums over rows in one order, whatever the threads.
"""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import as_rows, is_bf16
from hyla.ops.native.launching import empty, launch
from hyla.ops.native.mixers import ACTIVATIONS

KINDS = {"sigmoid": 0, "silu": 1, "softplus": 2}

ROWS = 32
"""Rows of one turn of norms_grad.c and gates_grad.c, whose shares of a weight's gradient are added first."""


def _fields(*names: str, kind: type[c_int64] | type[c_void_p] | type[c_float] = c_int64) -> tuple:
    return tuple((name, kind) for name in names)


def _point(call: Structure, **tensors: torch.Tensor | None) -> None:
    """Set fields to where tensors are."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())


class UnaryGradCall(Structure):
    """The struct `UnaryGrad` of elementwise_grad.c."""

    _fields_ = (*_fields("which", "count"), *_fields("saved", "grad", "out", kind=c_void_p))


def unary(kind: str, saved: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """fp32 gradient of x from that of kind(x), of one shape. saved: of a sigmoid its value, else x."""
    saved, grad = saved.contiguous(), grad.contiguous()
    out = empty(grad.shape, grad.dtype)
    call = UnaryGradCall(KINDS[kind], grad.numel())
    _point(call, saved=saved, grad=grad, out=out)
    launch("unary_grad", call, saved, grad, out)
    return out


class SwigluGradCall(Structure):
    """The struct `SwigluGrad` of elementwise_grad.c."""

    _fields_ = (
        *_fields("rows", "width", "gate_row", "up_row", "grad_row", "out_row", "is_bf16"),
        *_fields("gate", "up", "grad", "weights", "gate_grad", "up_grad", "act", "weight_grad", kind=c_void_p),
    )


def swiglu(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, weights_R: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of gate and up beside one another [.., 2 W], from that of silu(gate) up; all of one dtype.

    weights: fp32, one a row, what the result is multiplied with afterwards (grad is of the product). Then also the
    product with them [R, W], in the same dtype, and their gradients [R]; else None.
    """
    grad_RW, gate_RW, up_RW = as_rows(grad), as_rows(gate), as_rows(up)
    rows, width = gate_RW.shape
    out = empty((*gate.shape[:-1], 2 * width), grad.dtype)
    to_gate, to_up = out.view(rows, 2 * width).split(width, dim=1)
    act = weight_grad = None
    if weights_R is not None:
        weights_R = weights_R.contiguous()
        act, weight_grad = empty((rows, width), grad.dtype), empty((rows,), torch.float32)
    call = SwigluGradCall(rows, width, gate_RW.stride(0), up_RW.stride(0), grad_RW.stride(0), 2 * width, is_bf16(grad))
    _point(call, gate=gate_RW, up=up_RW, grad=grad_RW, weights=weights_R, gate_grad=to_gate, up_grad=to_up)
    _point(call, act=act, weight_grad=weight_grad)
    launch("swiglu_grad", call, grad_RW, gate_RW, up_RW, weights_R, out, act, weight_grad)
    return out, act, weight_grad


class LossCall(Structure):
    """The struct `Loss` of elementwise_grad.c."""

    _fields_ = (
        *_fields("rows", "vocab", "is_gradient"),
        *_fields("logits", "targets", "sums", "picked", kind=c_void_p),
        *_fields("scale", kind=c_float),
    )


def chunk_loss(logits_RV: torch.Tensor, targets_R: torch.Tensor, scale: float | None) -> tuple[torch.Tensor, ...]:
    """Losses [R] of fp32 logits, which become probabilities, or the gradient of `scale` times the losses' sum."""
    targets_R = targets_R.contiguous()
    sums_R, picked_R = (empty(targets_R.shape, torch.float32) for _ in range(2))
    call = LossCall(*logits_RV.shape, int(scale is not None), scale=1.0 if scale is None else scale)
    _point(call, logits=logits_RV, targets=targets_R, sums=sums_R, picked=picked_R)
    launch("loss", call, logits_RV, targets_R, sums_R, picked_R)
    return sums_R.log() - picked_R, logits_RV


class RowSumsCall(Structure):
    """The struct `RowSums` of elementwise_grad.c."""

    _fields_ = (*_fields("rows", "vocab"), *_fields("logits", "most", "sums", kind=c_void_p))


def row_sums(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each row of fp32 logits [R], and the sum of e^(logit - largest) [R], with `chunk_loss`'s bits."""
    logits_RV = logits_RV.contiguous()
    most_R, sums_R = (empty(logits_RV.shape[:1], torch.float32) for _ in range(2))
    call = RowSumsCall(*logits_RV.shape)
    _point(call, logits=logits_RV, most=most_R, sums=sums_R)
    launch("row_sums", call, logits_RV, most_R, sums_R)
    return most_R, sums_R


class WeightGradCall(Structure):
    """The struct `Call` of weight_grad.c."""

    _fields_ = (
        *_fields("rows", "outputs", "inputs", "grad_row", "x_row", "is_bf16"),
        *_fields("grad", "x", "out", kind=c_void_p),
    )


def weight(grad_TO: torch.Tensor, x_TD: torch.Tensor) -> torch.Tensor:
    """grad^T x [O, D] of at least one row: sums in fp32, rounded once to their one dtype. Raises ValueError else."""
    if grad_TO.dtype != x_TD.dtype or not grad_TO.shape[0] == x_TD.shape[0] > 0:
        raise ValueError(f"gradients {list(grad_TO.shape)} {grad_TO.dtype} of rows {list(x_TD.shape)} {x_TD.dtype}")
    grad_TO, x_TD = as_rows(grad_TO), as_rows(x_TD)
    (rows, outputs), inputs = grad_TO.shape, x_TD.shape[1]
    out = empty((outputs, inputs), grad_TO.dtype)
    call = WeightGradCall(rows, outputs, inputs, grad_TO.stride(0), x_TD.stride(0), is_bf16(x_TD))
    _point(call, grad=grad_TO, x=x_TD, out=out)
    launch("weight_grad", call, grad_TO, x_TD, out)
    return out


class NormGradCall(Structure):
    """The struct `NormGrad` of norms_grad.c."""

    _fields_ = (
        *_fields("rows", "width", "x_row", "grad_row", "is_bf16"),
        *_fields("x", "grad", "weight", "out", "sums", kind=c_void_p),
        *_fields("eps", "divisor", kind=c_float),
    )


def norm(
    grad: torch.Tensor, x: torch.Tensor, weight_W: torch.Tensor | None, *, eps: float, divisor: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of x and of the fp32 weight [W] (None without one), from that of
    x / sqrt(sum(x^2) / divisor + eps) weight over the last dimension, in x's dtype."""
    grad_RW, rows_RW = as_rows(grad), as_rows(x)
    weight_W = None if weight_W is None else weight_W.contiguous()
    rows, width = rows_RW.shape
    out = empty(x.shape, x.dtype)
    sums = None if weight_W is None else empty((-(-rows // ROWS), width), torch.float32)
    call = NormGradCall(rows, width, rows_RW.stride(0), grad_RW.stride(0), is_bf16(x), eps=eps, divisor=divisor)
    _point(call, x=rows_RW, grad=grad_RW, weight=weight_W, out=out, sums=sums)
    launch("norm_grad", call, rows_RW, grad_RW, weight_W, out, sums)
    return out, None if sums is None else sums.sum(0)


class GatedGradCall(Structure):
    """The struct `GatedGrad` of norms_grad.c."""

    _fields_ = (
        *_fields("rows", "groups", "width", "gate_row", "gate_bf16", "grad_row", "grad_bf16"),
        *_fields("which", "is_gate_first", "weight_step", "head", "skip_row"),
        *_fields("x", "weight", "gate", "grad", "skip", "factor", kind=c_void_p),
        *_fields("x_grad", "gate_grad", "weight_sums", "skip_grad", "factor_sums", kind=c_void_p),
        *_fields("eps", kind=c_float),
    )


def gated_norm(
    grad_TC: torch.Tensor,
    x_TC: torch.Tensor,
    gate_TC: torch.Tensor,
    weight: torch.Tensor,
    skip: tuple[torch.Tensor, torch.Tensor] | None = None,
    *,
    groups: int,
    eps: float,
    activation: str,
    is_gate_first: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradients of `mixers.group_norm` and `gates.gated_norm`: of x [T, C] in fp32, of the gate in its dtype, of the
    fp32 weight, [C] or one group's for all; with skip ([T, C], [H]) of these two as well, in fp32."""
    grad_TC, x_TC, gate_TC, weight = as_rows(grad_TC), x_TC.contiguous(), as_rows(gate_TC), weight.contiguous()
    tokens, channels = x_TC.shape
    width, turns = channels // groups, -(-tokens // ROWS)
    x_grad, gate_grad = empty(x_TC.shape, torch.float32), empty(x_TC.shape, gate_TC.dtype)
    sums = empty((turns, weight.shape[0]), torch.float32)
    call = GatedGradCall(tokens, groups, width, gate_TC.stride(0), is_bf16(gate_TC), grad_TC.stride(0))
    call.grad_bf16, call.which, call.is_gate_first = is_bf16(grad_TC), ACTIVATIONS[activation], int(is_gate_first)
    call.weight_step, call.eps = width if weight.shape[0] == channels else 0, eps
    _point(call, x=x_TC, weight=weight, gate=gate_TC, grad=grad_TC, x_grad=x_grad, gate_grad=gate_grad)
    _point(call, weight_sums=sums)
    kept = [x_TC, weight, gate_TC, grad_TC, x_grad, gate_grad, sums]
    if skip is None:
        launch("gated_grad", call, *kept)
        return x_grad, gate_grad, sums.sum(0)
    skip_TC, factor_H = as_rows(skip[0]), skip[1].contiguous()
    skip_grad = empty(x_TC.shape, torch.float32)
    factor_sums = empty((turns, factor_H.shape[0]), torch.float32)
    call.head, call.skip_row = channels // factor_H.shape[0], skip_TC.stride(0)
    _point(call, skip=skip_TC, factor=factor_H, skip_grad=skip_grad, factor_sums=factor_sums)
    launch("gated_grad", call, *kept, skip_TC, factor_H, skip_grad, factor_sums)
    return x_grad, gate_grad, sums.sum(0), skip_grad, factor_sums.sum(0)


class DecaysGradCall(Structure):
    """The struct `DecaysGrad` of gates_grad.c."""

    _fields_ = (
        *_fields("rows", "columns", "raw_row", "raw_bf16", "has_bound"),
        *_fields("raw", "bias", "rates", "grad", "out", "bias_sums", "rate_sums", kind=c_void_p),
        *_fields("bound", kind=c_float),
    )


def decays(
    grad: torch.Tensor, raw: torch.Tensor, A_log_H: torch.Tensor, dt_bias: torch.Tensor, lower_bound: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of raw [T, C], in its dtype, and of fp32 A_log [H] and dt_bias [C], from that of `gates.decays`' log
    decays."""
    grad, raw, dt_bias = grad.contiguous(), as_rows(raw), dt_bias.contiguous()
    (rows, columns), heads = raw.shape, A_log_H.shape[0]
    rates = A_log_H.exp().repeat_interleave(columns // heads)
    out = empty(raw.shape, raw.dtype)
    bias_sums, rate_sums = empty((2, -(-rows // ROWS), columns), torch.float32)
    call = DecaysGradCall(rows, columns, raw.stride(0), is_bf16(raw), int(lower_bound is not None))
    call.bound = lower_bound or 0.0
    _point(call, raw=raw, bias=dt_bias, rates=rates, grad=grad, out=out, bias_sums=bias_sums, rate_sums=rate_sums)
    launch("decays_grad", call, raw, dt_bias, rates, grad, out, bias_sums, rate_sums)
    return out, rate_sums.sum(0).view(heads, -1).sum(1), bias_sums.sum(0)


class RatesGradCall(Structure):
    """The struct `RatesGrad` of gates_grad.c."""

    _fields_ = (
        *_fields("rows", "heads", "head", "channels", "dt_row", "dt_bf16"),
        *_fields("convolved", "bias", "dt", "dt_bias", "rate", "mixed", "values", "log_decay", kind=c_void_p),
        *_fields("convolved_grad", "dt_grad", "bias_sums", "dt_bias_sums", "rate_sums", kind=c_void_p),
        *_fields("low", "high", kind=c_float),
    )


def rates(
    grads: tuple[torch.Tensor, ...],
    convolved_TC: torch.Tensor,
    bias_C: torch.Tensor,
    dt_TH: torch.Tensor,
    dt_bias_H: torch.Tensor,
    rate_H: torch.Tensor,
    *,
    limit: tuple[float, float],
) -> tuple[torch.Tensor, ...]:
    """Gradients of `mixers.rates`' five inputs from those of its three results: fp32, but for dt's, in its dtype."""
    mixed, values, log_decay = (grad.contiguous() for grad in grads)
    convolved_TC, bias_C, dt_TH = convolved_TC.contiguous(), bias_C.contiguous(), as_rows(dt_TH)
    dt_bias_H, rate_H = dt_bias_H.contiguous(), rate_H.contiguous()
    (tokens, heads), channels = dt_TH.shape, convolved_TC.shape[1]
    convolved_grad, dt_grad = empty(convolved_TC.shape, torch.float32), empty(dt_TH.shape, dt_TH.dtype)
    turns = -(-tokens // ROWS)
    bias_sums = empty((turns, channels), torch.float32)
    dt_bias_sums, rate_sums = (empty((turns, heads), torch.float32) for _ in range(2))
    call = RatesGradCall(tokens, heads, values.shape[-1], channels, dt_TH.stride(0), is_bf16(dt_TH))
    call.low, call.high = limit
    kept = {"convolved": convolved_TC, "bias": bias_C, "dt": dt_TH, "dt_bias": dt_bias_H, "rate": rate_H}
    kept |= {"mixed": mixed, "values": values, "log_decay": log_decay}
    kept |= {"convolved_grad": convolved_grad, "dt_grad": dt_grad}
    kept |= {"bias_sums": bias_sums, "dt_bias_sums": dt_bias_sums, "rate_sums": rate_sums}
    _point(call, **kept)
    launch("rates_grad", call, kept)
    return convolved_grad, bias_sums.sum(0), dt_grad, dt_bias_sums.sum(0), rate_sums.sum(0)


class ConvGradCall(Structure):
    """The struct `Call` of conv_grad.c."""

    _fields_ = (
        *_fields("sequences"),
        *_fields("offset", "length", kind=c_void_p),
        *_fields("channels", "taps", "stride", "is_bf16", "has_silu", "key_channels", "key_dim"),
        *_fields("x", "weight", "y", "k", "v", "out", "weight_grad", kind=c_void_p),
        *_fields("eps", "scale", kind=c_float),
    )


def conv(
    grads: tuple[torch.Tensor, ...],
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    spans_4N: torch.Tensor,
    *,
    key_heads: int = 0,
    key_dim: int = 0,
    eps: float = 0.0,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of whole sequences' x [T, C], in its dtype, and of the weight [C, L] in fp32.

    grads: fp32, of `kernels.conv`'s rows [T, C]; or, with heads, of `kernels.conv_heads`' q, k and v.
    """
    x_TC, weight_LC = as_rows(x_TC), weight_CL.detach().to(torch.float32).t().contiguous()
    grads = tuple(grad.contiguous() for grad in grads)
    out, weight_grad = empty(x_TC.shape, x_TC.dtype), empty(weight_LC.shape, torch.float32)
    call = ConvGradCall(spans_4N.shape[1], spans_4N[0].data_ptr(), spans_4N[1].data_ptr())
    call.taps, call.channels = weight_LC.shape
    call.stride, call.is_bf16, call.has_silu = x_TC.stride(0), is_bf16(x_TC), int(len(grads) > 1)
    call.key_channels, call.key_dim, call.eps, call.scale = key_heads * key_dim, key_dim, eps, scale
    _point(call, x=x_TC, weight=weight_LC, out=out, weight_grad=weight_grad, **dict(zip(("y", "k", "v"), grads)))
    launch("conv_grad", call, spans_4N, x_TC, weight_LC, grads, out, weight_grad)
    return out, weight_grad.t()
