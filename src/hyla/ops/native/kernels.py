"""The kernels as functions on tensors. All are for the CPU, fp32 or bf16, without autograd; see the C files."""

from __future__ import annotations

from ctypes import Structure, byref, c_float, c_int64, c_void_p

import torch

from hyla.ops.native import library

KINDS = {"sigmoid": 0, "silu": 1}


def _is_bf16(x: torch.Tensor) -> int:
    return int(x.dtype == torch.bfloat16)


def unary(kind: str, x: torch.Tensor) -> torch.Tensor:
    """sigmoid or silu of fp32 x."""
    x = x.contiguous()
    y = torch.empty_like(x)
    library().hyla_unary(KINDS[kind], c_int64(x.numel()), c_void_p(x.data_ptr()), c_void_p(y.data_ptr()))
    return y


def _as_rows(x: torch.Tensor) -> torch.Tensor:
    """[R, W] with dense rows; a view where x is two-dimensional."""
    x = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up in fp32, rounded once to their dtype."""
    gate_RW, up_RW = _as_rows(gate), _as_rows(up)
    rows, width = gate_RW.shape
    y = torch.empty(gate.shape, dtype=up.dtype)
    strides = (c_int64(gate_RW.stride(0)), c_int64(up_RW.stride(0)))
    pointers = (c_void_p(x.data_ptr()) for x in (gate_RW, up_RW, y))
    library().hyla_swiglu(c_int64(rows), c_int64(width), *strides, _is_bf16(up), *pointers)
    return y


def norm(x: torch.Tensor, weight: torch.Tensor | None, *, shift: float, eps: float, divisor: float) -> torch.Tensor:
    """x / sqrt(sum(x^2) / divisor + eps) * (weight + shift) over the last dimension, in x's dtype."""
    rows_RW = _as_rows(x)
    rows, width = rows_RW.shape
    y = torch.empty(x.shape, dtype=x.dtype)
    bf16 = _is_bf16(x)
    library().hyla_norm(
        c_int64(rows),
        c_int64(width),
        c_int64(rows_RW.stride(0)),
        bf16,
        0 if weight is None else _is_bf16(weight),
        bf16,
        c_void_p(rows_RW.data_ptr()),
        c_void_p(0 if weight is None else weight.data_ptr()),
        c_float(shift),
        c_float(eps),
        c_float(divisor),
        c_void_p(y.data_ptr()),
    )
    return y


def conv(
    x_TC: torch.Tensor, weight_LC: torch.Tensor, spans_4N: torch.Tensor, ring: torch.Tensor | None
) -> torch.Tensor:
    """The short convolution's fp32 rows; reads the ring, then extends it. spans: offsets, lengths, starts, slots."""
    x_TC = _as_rows(x_TC)
    y = torch.empty(x_TC.shape, dtype=torch.float32)
    library().hyla_conv(
        c_int64(spans_4N.shape[1]),
        *(c_void_p(span.data_ptr()) for span in spans_4N),
        c_int64(x_TC.shape[1]),
        weight_LC.shape[0],
        c_int64(x_TC.stride(0)),
        _is_bf16(x_TC),
        c_void_p(x_TC.data_ptr()),
        c_void_p(weight_LC.data_ptr()),
        c_void_p(0 if ring is None else ring.data_ptr()),
        c_int64(0 if ring is None else ring.shape[1]),
        c_void_p(y.data_ptr()),
    )
    return y


class DeltaCall(Structure):
    """`Call` of delta.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "start", "slot", "first_item", "items")),
        *((name, c_int64) for name in ("key_heads", "heads", "K", "V")),
        *((name, c_void_p) for name in ("q", "k", "v", "log_decay", "beta")),
        *((name, c_void_p) for name in ("o", "anchor", "u", "keys", "sums", "decay_rows", "k_scaled", "block_sum")),
        *((name, c_void_p) for name in ("u_items", "anchor_items")),
    )


def delta(inputs, spans_4N: torch.Tensor, states: dict[str, torch.Tensor], items=None, kept=None) -> torch.Tensor:
    """Outputs [T, H, V] of a delta rule.

    inputs: q (scaled), k [T, Hk, K], v [T, H, V], log_decay [T, H] or [T, H, K], beta [T, H], fp32. states: the cache's
    tensors by field of `DeltaCall`, extended in place; empty: whole sequences from zero. items: (int64 [N], int64) the
    first place of each sequence in the list of its chunks' items; kept: (u [I, H, 64, V], anchors [I, H, K, V]).
    """
    tensors = [x.contiguous() for x in inputs]
    _, k, v, log_decay, _ = tensors
    o = torch.empty_like(v)
    call = DeltaCall(sequences=spans_4N.shape[1], key_heads=k.shape[1], heads=v.shape[1], K=k.shape[2], V=v.shape[2])
    named = dict(zip(("offset", "length", "start", "slot"), spans_4N))
    named |= dict(zip(("q", "k", "v", "log_decay", "beta"), tensors)) | {"o": o} | states
    named |= dict(zip(("first_item", "items"), items or ())) | dict(zip(("u_items", "anchor_items"), kept or ()))
    for name, tensor in named.items():
        setattr(call, name, tensor.data_ptr())
    if library().hyla_delta(byref(call), int(log_decay.dim() == 3)):
        raise MemoryError("the delta rule's kernels found no memory")
    return o


SCALE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float8_e8m0fnu: 2}
"""Dtypes of FP8 scales that the kernels read."""


class ProductCall(Structure):
    """`Call` of product.c."""

    _fields_ = (
        ("spans", c_int64),
        ("span", c_void_p),
        ("tiles", c_int64),
        ("tile", c_void_p),
        *((name, c_int64) for name in ("outputs", "inner", "scale_rows", "scale_kind")),
        *((name, c_void_p) for name in ("weights", "scales", "x")),
        ("x_stride", c_int64),
        ("y", c_void_p),
        *((name, c_int64) for name in ("y_stride", "is_bf16", "order")),
    )


def _weight_call(weights: torch.Tensor, scales: torch.Tensor | None, tiles_N3: torch.Tensor) -> ProductCall:
    """weights [..., O, D] (the scales' dtype is one of SCALE_KINDS), both dense."""
    call = ProductCall(tiles=tiles_N3.shape[0], tile=tiles_N3.data_ptr(), weights=weights.data_ptr())
    call.outputs, call.inner = weights.shape[-2:]
    if scales is not None:
        call.scale_rows, call.scale_kind, call.scales = scales.shape[-2], SCALE_KINDS[scales.dtype], scales.data_ptr()
    return call


def fp8_dense(
    codes: torch.Tensor, scales: torch.Tensor, tiles_N3: torch.Tensor, matrix: int, first: int, out: torch.Tensor
) -> None:
    """Rows from `first` on of one matrix of codes [..., O, D], as many as out [R, D] has, in out's dtype."""
    call = _weight_call(codes, scales, tiles_N3)
    places = (c_int64(matrix), c_int64(first), c_int64(first + out.shape[0]))
    library().hyla_fp8_dense(byref(call), *places, _is_bf16(out), c_void_p(out.data_ptr()))


def product(
    x_TD: torch.Tensor,
    weights: torch.Tensor,
    scales: torch.Tensor | None,
    tiles_N3: torch.Tensor,
    spans_S3: torch.Tensor,
    order: int,
    out_TO: torch.Tensor,
) -> bool:
    """Each span's rows times its matrix, into out (a view with dense rows); False where the processor cannot.

    weights: [..., O, D], plain in x's dtype or FP8 codes with scales; spans: (matrix, first row, last row + 1), int64;
    tiles: (first output, count <= 64, row of scales), int64; order: products of a chain of the sum.
    """
    x_TD = _as_rows(x_TD)
    if x_TD.dtype == torch.bfloat16 and x_TD.shape[1] % 2:
        x_TD = torch.nn.functional.pad(x_TD, (0, 1))
    call = _weight_call(weights, scales, tiles_N3)
    call.spans, call.span, call.order = spans_S3.shape[0], spans_S3.data_ptr(), order
    call.x, call.x_stride, call.is_bf16 = x_TD.data_ptr(), x_TD.stride(0), _is_bf16(x_TD)
    call.y, call.y_stride = out_TO.data_ptr(), out_TO.stride(0)
    return not library().hyla_product(byref(call))
