"""The kernels of the mixture of experts (moe.c) as functions on tensors."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import as_rows, is_bf16
from hyla.ops.native.launching import empty, launch


def _fields(*names: str, kind: type[c_int64] | type[c_void_p] | type[c_float] = c_int64) -> tuple:
    return tuple((name, kind) for name in names)


class SoftmaxCall(Structure):
    """The struct `Softmax` of moe.c."""

    _fields_ = (*_fields("rows", "width"), *_fields("x", "y", kind=c_void_p))


class RouteCall(Structure):
    """The struct `Route` of moe.c."""

    _fields_ = (
        *_fields("tokens", "experts", "chosen", "is_sigmoid", "normalize", "groups", "groups_kept"),
        *_fields("logits", "bias", "weights", "ids", kind=c_void_p),
        *_fields("scaling", "eps", kind=c_float),
    )


class GroupCall(Structure):
    """The struct `Group` of moe.c."""

    _fields_ = (
        *_fields("tokens", "chosen", "experts", "spans"),
        *_fields("ids", "order", "rows", "span", kind=c_void_p),
        *_fields("x_stride", "x_bytes"),
        *_fields("x", "sorted", kind=c_void_p),
    )


class CombineCall(Structure):
    """The struct `Combine` of moe.c."""

    _fields_ = (
        *_fields("tokens", "chosen", "width", "is_bf16"),
        *_fields("slots", "rows", "weights", "y", kind=c_void_p),
    )


class JoinCall(Structure):
    """The struct `Join` of moe.c."""

    _fields_ = (
        *_fields("tokens", "width", "is_bf16", "shared_row", "gate_row"),
        *_fields("shared", "gate", "y", kind=c_void_p),
    )


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Over the last dimension of fp32 x."""
    x, y = x.contiguous(), empty(x.shape, x.dtype)
    width = x.shape[-1]
    if x.numel():
        launch("softmax", SoftmaxCall(x.numel() // width, width, x.data_ptr(), y.data_ptr()), x, y)
    return y


def route(
    logits_TE: torch.Tensor,
    bias_E: torch.Tensor | None,
    *,
    num_chosen: int,
    is_sigmoid: bool,
    normalize: bool,
    num_groups: int,
    num_groups_kept: int,
    scaling: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights fp32 and ids int64 [T, k] of the chosen experts (see `hyla.ops.moe.route`)."""
    logits_TE = logits_TE.contiguous()
    bias_E = None if bias_E is None else bias_E.contiguous()
    tokens, experts = logits_TE.shape
    weights_Tk, ids_Tk = empty((tokens, num_chosen), torch.float32), empty((tokens, num_chosen), torch.int64)
    call = RouteCall(tokens, experts, num_chosen, is_sigmoid, normalize, num_groups, num_groups_kept)
    call.logits, call.weights, call.ids = logits_TE.data_ptr(), weights_Tk.data_ptr(), ids_Tk.data_ptr()
    call.scaling, call.eps = scaling, eps
    if bias_E is not None:
        call.bias = bias_E.data_ptr()
    launch("route", call, logits_TE, bias_E, weights_Tk, ids_Tk)
    return weights_Tk, ids_Tk


def group(x_TD: torch.Tensor, ids_Tk: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, ...]:
    """(rows of x [A, D] by expert, spans int64 [S, 3], order [A], row of each pair [A]), A = T k.

    S is the most experts that can have rows; the spans that are left over are empty. Ids must be experts.
    """
    x_TD, ids_Tk = as_rows(x_TD), ids_Tk.contiguous()
    tokens, chosen = ids_Tk.shape
    pairs, width = tokens * chosen, x_TD.shape[1]
    sorted_AD, spans_S3 = empty((pairs, width), x_TD.dtype), empty((min(num_experts, pairs), 3), torch.int64)
    order_A, rows_A = empty((pairs,), torch.int64), empty((pairs,), torch.int64)
    call = GroupCall(tokens, chosen, num_experts, spans_S3.shape[0])
    call.ids, call.order, call.rows, call.span = (t.data_ptr() for t in (ids_Tk, order_A, rows_A, spans_S3))
    call.x_stride, call.x_bytes = x_TD.stride(0) * x_TD.itemsize, width * x_TD.itemsize
    call.x, call.sorted = x_TD.data_ptr(), sorted_AD.data_ptr()
    launch("group", call, x_TD, ids_Tk, sorted_AD, spans_S3, order_A, rows_A)
    return sorted_AD, spans_S3, order_A, rows_A


def combine(slots_AD: torch.Tensor, rows_A: torch.Tensor, weights_Tk: torch.Tensor) -> torch.Tensor:
    """Sum over a token's slots in their order, in fp32, rounded once to the slots' dtype: [T, D]."""
    weights_Tk = weights_Tk.contiguous()
    tokens, chosen = weights_Tk.shape
    y_TD = empty((tokens, slots_AD.shape[1]), slots_AD.dtype)
    call = CombineCall(tokens, chosen, slots_AD.shape[1], is_bf16(slots_AD))
    call.slots, call.rows, call.weights, call.y = (t.data_ptr() for t in (slots_AD, rows_A, weights_Tk, y_TD))
    launch("combine", call, slots_AD, rows_A, weights_Tk, y_TD)
    return y_TD


def join(y_TD: torch.Tensor, shared_TD: torch.Tensor, gate_T1: torch.Tensor | None) -> torch.Tensor:
    """y, to which shared times sigmoid(gate) was added in place; all in one dtype."""
    shared_TD = as_rows(shared_TD)
    call = JoinCall(*y_TD.shape, is_bf16(y_TD), shared_TD.stride(0), shared=shared_TD.data_ptr(), y=y_TD.data_ptr())
    if gate_T1 is not None:
        call.gate, call.gate_row = gate_T1.data_ptr(), gate_T1.stride(0)
    launch("join", call, shared_TD, gate_T1, y_TD)
    return y_TD
