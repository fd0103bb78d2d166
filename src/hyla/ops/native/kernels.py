"""The kernels as functions on tensors. All are for the CPU, fp32 or bf16, without autograd; see the C files."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.launching import empty, launch

KINDS = {"sigmoid": 0, "silu": 1, "softplus": 2, "exp": 3}


def is_bf16(x: torch.Tensor) -> int:
    """The kernels' word for a dtype: 1 for bf16, 0 for fp32."""
    return int(x.dtype == torch.bfloat16)


class UnaryCall(Structure):
    """The struct `Unary` of elementwise.c."""

    _fields_ = (("which", c_int64), ("count", c_int64), ("x", c_void_p), ("y", c_void_p))


def unary(kind: str, x: torch.Tensor) -> torch.Tensor:
    """sigmoid, silu or softplus of fp32 x."""
    x = x.contiguous()
    y = empty(x.shape, x.dtype)
    launch("unary", UnaryCall(KINDS[kind], x.numel(), x.data_ptr(), y.data_ptr()), x, y)
    return y


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """[R, W] with dense rows; a view where x is two-dimensional."""
    x = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


class SwigluCall(Structure):
    """The struct `Swiglu` of elementwise.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "gate_stride", "up_stride", "is_bf16")),
        *((name, c_void_p) for name in ("gate", "up", "y")),
    )


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up in fp32, rounded once to their dtype."""
    gate_RW, up_RW = as_rows(gate), as_rows(up)
    y = empty(gate.shape, up.dtype)
    call = SwigluCall(*gate_RW.shape, gate_RW.stride(0), up_RW.stride(0), is_bf16(up))
    call.gate, call.up, call.y = gate_RW.data_ptr(), up_RW.data_ptr(), y.data_ptr()
    launch("swiglu", call, gate_RW, up_RW, y)
    return y


class NormCall(Structure):
    """The struct `Norms` of elementwise.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "stride", "x_bf16", "w_bf16", "y_bf16")),
        *((name, c_void_p) for name in ("x", "weight", "y")),
        *((name, c_float) for name in ("shift", "eps", "divisor")),
    )


def norm(x: torch.Tensor, weight: torch.Tensor | None, *, shift: float, eps: float, divisor: float) -> torch.Tensor:
    """x / sqrt(sum(x^2) / divisor + eps) * (weight + shift) over the last dimension, in x's dtype."""
    rows_RW = as_rows(x)
    y = empty(x.shape, x.dtype)
    call = NormCall(*rows_RW.shape, rows_RW.stride(0), is_bf16(x), y_bf16=is_bf16(x), x=rows_RW.data_ptr())
    if weight is not None:
        call.w_bf16, call.weight = is_bf16(weight), weight.data_ptr()
    call.y, call.shift, call.eps, call.divisor = y.data_ptr(), shift, eps, divisor
    launch("norm", call, rows_RW, weight, y)
    return y


class GateCall(Structure):
    """The struct `Gate` of elementwise.c."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "gate_stride", "gate_bf16", "y_bf16")),
        *((name, c_void_p) for name in ("o", "gate", "y")),
    )


def sigmoid_gate(o: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """o * sigmoid(gate) for fp32 o, rounded once to dtype."""
    o_RW, gate_RW = as_rows(o).contiguous(), as_rows(gate)
    y = empty(o.shape, dtype)
    call = GateCall(*o_RW.shape, gate_RW.stride(0), is_bf16(gate), is_bf16(y))
    call.o, call.gate, call.y = o_RW.data_ptr(), gate_RW.data_ptr(), y.data_ptr()
    launch("sigmoid_gate", call, o_RW, gate_RW, y)
    return y


class HeadsCall(Structure):
    """The struct `Heads` of elementwise.c."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "heads", "width", "row", "head")),
        *((name, c_int64) for name in ("x_bf16", "w_bf16", "y_bf16", "has_norm", "rotary", "interleaved")),
        *((name, c_void_p) for name in ("x", "weight", "cos_sin", "y")),
        *((name, c_float) for name in ("shift", "eps")),
        *((name, c_int64) for name in ("y_row", "y_head")),
    )


def norm_and_rotate(
    x_THK,
    weight,
    eps: float | None,
    cos_sin_TR,
    *,
    shift: float,
    interleaved: bool,
    dtype,
    out: torch.Tensor | None = None,
):
    """Heads [T, H, K], RMS-normed unless eps is None and rotated unless cos_sin is None, in dtype.

    out: a view with dense rows to write to.
    """
    x_THK = x_THK if x_THK.stride(2) == 1 else x_THK.contiguous()
    y = empty(x_THK.shape, dtype) if out is None else out
    tokens, heads, width = x_THK.shape
    call = HeadsCall(
        tokens=tokens,
        heads=heads,
        width=width,
        row=x_THK.stride(0),
        head=x_THK.stride(1),
        x_bf16=is_bf16(x_THK),
        w_bf16=0 if weight is None else is_bf16(weight),
        y_bf16=is_bf16(y),
        has_norm=int(eps is not None),
        rotary=0 if cos_sin_TR is None else cos_sin_TR.shape[1],
        interleaved=int(interleaved),
        x=x_THK.data_ptr(),
        weight=0 if weight is None else weight.data_ptr(),
        cos_sin=0 if cos_sin_TR is None else cos_sin_TR.data_ptr(),
        y=y.data_ptr(),
        shift=shift,
        eps=eps or 0.0,
        y_row=y.stride(0),
        y_head=y.stride(1),
    )
    launch("heads", call, x_THK, weight, cos_sin_TR, y)
    return y


class ConvCall(Structure):
    """The struct `Call` of conv.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "start", "slot")),
        *((name, c_int64) for name in ("channels", "taps", "stride", "is_bf16", "w_bf16", "ring_rows")),
        *((name, c_int64) for name in ("has_silu", "key_channels", "key_dim")),
        *((name, c_void_p) for name in ("x", "weight", "ring", "tail", "y", "k", "v")),
        *((name, c_float) for name in ("eps", "scale")),
    )


def _conv_call(x_TC, weight_CL, spans_4N, ring, tail) -> ConvCall:
    call = ConvCall(spans_4N.shape[1], *(span.data_ptr() for span in spans_4N))
    call.channels, call.taps = weight_CL.shape
    call.stride, call.is_bf16, call.w_bf16 = x_TC.stride(0), is_bf16(x_TC), is_bf16(weight_CL)
    call.x, call.weight = x_TC.data_ptr(), weight_CL.data_ptr()
    if ring is not None:
        call.ring_rows, call.ring = ring.shape[1], ring.data_ptr()
    if tail is not None:
        call.tail = tail.data_ptr()
    return call


def conv(
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    spans_4N: torch.Tensor,
    ring: torch.Tensor | None,
    tail: torch.Tensor | None = None,
) -> torch.Tensor:
    """The short convolution's fp32 rows; reads the ring, then extends it, and sets the tail beside it.

    spans: offsets, lengths, starts, slots. weight: fp32 or bf16.
    """
    x_TC, weight_CL = as_rows(x_TC), weight_CL.contiguous()
    y = empty(x_TC.shape, torch.float32)
    call = _conv_call(x_TC, weight_CL, spans_4N, ring, tail)
    call.y = y.data_ptr()
    launch("conv", call, spans_4N, x_TC, weight_CL, ring, tail, y)
    return y


WIDEST_HEAD = 1024
"""Channels of a head that `conv_heads` takes."""


def conv_heads(
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    spans_4N: torch.Tensor,
    ring: torch.Tensor | None,
    tail: torch.Tensor | None,
    *,
    key_heads: int,
    key_dim: int,
    value_heads: int,
    eps: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`conv`, SiLU and unit length: q (times scale), k [T, Hk, K] and v [T, Hv, V] of a delta rule, fp32 and dense."""
    x_TC, weight_CL = as_rows(x_TC), weight_CL.contiguous()
    tokens, keys = x_TC.shape[0], key_heads * key_dim
    q, k = (empty((tokens, key_heads, key_dim), torch.float32) for _ in range(2))
    v = empty((tokens, value_heads, (x_TC.shape[1] - 2 * keys) // value_heads), torch.float32)
    call = _conv_call(x_TC, weight_CL, spans_4N, ring, tail)
    call.has_silu, call.key_channels, call.key_dim, call.eps, call.scale = 1, keys, key_dim, eps, scale
    call.y, call.k, call.v = q.data_ptr(), k.data_ptr(), v.data_ptr()
    launch("conv", call, spans_4N, x_TC, weight_CL, ring, tail, q, k, v)
    return q, k, v


class DeltaCall(Structure):
    """The struct `Call` of delta.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "start", "slot", "first_item", "items")),
        *((name, c_int64) for name in ("key_heads", "heads", "K", "V")),
        *((name, c_void_p) for name in ("q", "k", "v", "log_decay", "beta")),
        *((name, c_void_p) for name in ("o", "anchor", "u", "keys", "sums", "decay_rows", "k_scaled", "block_sum")),
        *((name, c_void_p) for name in ("u_items", "anchor_items", "first", "final")),
        ("per_channel", c_int64),
    )


def delta(inputs, spans_4N: torch.Tensor, states: dict[str, torch.Tensor], items=None, kept=None) -> torch.Tensor:
    """Outputs [T, H, V] of a delta rule.

    inputs: q (scaled), k [T, Hk, K], v [T, H, V], log_decay [T, H] or [T, H, K], beta [T, H], fp32. states: the cache's
    tensors by field of `DeltaCall`, extended in place; without "anchor": whole sequences, from the states "first"
    [N, H, K, V] or from zero, and the last states into "final" where that is given. items: (int64 [N], int64) the first
    place of each sequence in the list of its chunks' items; kept: (u [I, H, 64, V], anchors [I, H, K, V]).
    """
    tensors = [x.contiguous() for x in inputs]
    _, k, v, log_decay, _ = tensors
    o = empty(v.shape, v.dtype)
    call = DeltaCall(sequences=spans_4N.shape[1], key_heads=k.shape[1], heads=v.shape[1], K=k.shape[2], V=v.shape[2])
    call.per_channel = int(log_decay.dim() == 3)
    named = dict(zip(("offset", "length", "start", "slot"), spans_4N))
    named |= dict(zip(("q", "k", "v", "log_decay", "beta"), tensors)) | {"o": o} | states
    named |= dict(zip(("first_item", "items"), items or ())) | dict(zip(("u_items", "anchor_items"), kept or ()))
    for name, tensor in named.items():
        setattr(call, name, tensor.data_ptr())
    launch("delta", call, spans_4N, named)
    return o


TILE_BYTES = 1 << 19
"""Queries and outputs of the rows that meet a page together: half of a core's second cache."""

SPARE_BYTES = 1 << 25
"""Partial results of superblocks that are computed side by side."""


class AttentionCall(Structure):
    """The struct `Call` of attention.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "start", "first_page", "pages")),
        *((name, c_int64) for name in ("heads", "group", "K", "V", "window")),
        *((name, c_int64) for name in ("q_bf16", "q_row", "q_head")),
        *((name, c_int64) for name in ("kv_bf16", "k_row", "k_head", "v_row", "v_head")),
        *((name, c_int64) for name in ("tile_rows", "spare_bytes")),
        *((name, c_void_p) for name in ("q", "k", "v", "k_pages", "v_pages", "sinks", "o", "max", "sum")),
        ("scale", c_float),
    )


def _with_dense_heads(x_THK: torch.Tensor) -> torch.Tensor:
    return x_THK if x_THK.stride(2) == 1 else x_THK.contiguous()


def attention(q, k, v, page_table, spans_4N, k_pages, v_pages, *, scale, value_dim, window, sinks, with_statistics):
    """Write new keys and values to their pages, then attend: (o [T, Hq, V], max, sum [T, Hq] or None), fp32.

    q [T, Hq, K]; k, v [T, G, .] like the pages [P, G, K, 64] and [P, G, 64, V] (v, v_pages None: the values are
    channels of the keys); page_table: int64 (place of each sequence's first page in the list, pages); sinks: fp32 [Hq].
    """
    q, k = _with_dense_heads(q), _with_dense_heads(k)
    v = None if v is None else _with_dense_heads(v)
    sinks = None if sinks is None else sinks.contiguous()
    tokens, query_heads, key_dim = q.shape
    o = empty((tokens, query_heads, value_dim), torch.float32)
    maximum, total = empty((2, tokens, query_heads), torch.float32) if with_statistics else (None, None)
    call = AttentionCall(
        sequences=spans_4N.shape[1],
        heads=k.shape[1],
        group=query_heads // k.shape[1],
        K=key_dim,
        V=value_dim,
        window=window or 0,
        q_bf16=is_bf16(q),
        kv_bf16=is_bf16(k),
        tile_rows=TILE_BYTES // (4 * (key_dim + value_dim)),
        spare_bytes=SPARE_BYTES,
        scale=scale,
    )
    for name, x in (("q", q), ("k", k), ("v", k if v is None else v)):
        setattr(call, f"{name}_row", x.stride(0))
        setattr(call, f"{name}_head", x.stride(1))
    named = dict(zip(("offset", "length", "start"), spans_4N)) | dict(zip(("first_page", "pages"), page_table))
    named |= {"q": q, "k": k, "v": v, "k_pages": k_pages, "v_pages": v_pages}
    named |= {"sinks": sinks, "o": o, "max": maximum, "sum": total}
    for name, tensor in named.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
    launch("attention", call, spans_4N, page_table, named)
    return o, maximum, total
