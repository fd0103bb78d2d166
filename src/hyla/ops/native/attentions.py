"""The gradient of softmax attention (attention_grad.c) as a function on tensors."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import is_bf16
from hyla.ops.native.launching import empty, launch

LANES = 16
"""The kernel's rows of gradients are whole vectors of so many floats."""


class AttentionGradCall(Structure):
    """The struct `Call` of attention_grad.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length")),
        *((name, c_int64) for name in ("tokens", "heads", "group", "K", "V", "window")),
        *((name, c_int64) for name in ("q_bf16", "q_row", "q_head")),
        *((name, c_int64) for name in ("kv_bf16", "k_row", "k_head", "v_row", "v_head", "grad_row", "grad_head")),
        *((name, c_void_p) for name in ("q", "k", "v", "o", "grad", "max", "sum", "sinks")),
        *((name, c_void_p) for name in ("by_head", "grad_q", "grad_k", "grad_v", "grad_sinks")),
        ("scale", c_float),
    )


def attention_grad(grad_o, q, k, v, sinks, found, spans_4N, *, scale, value_dim, window):
    """Gradients (q, k, v or None, sinks or None) of whole sequences, fp32.

    grad_o [T, Hq, V], fp32; q [T, Hq, K], k, v [T, G, .] (v None: the values are the first channels of the keys), fp32
    or bf16; sinks fp32 [Hq] or None; found: o [T, Hq, V], maxima and sums [T, Hq], fp32, as the forward pass gave them.
    """
    o, maximum, total = (x.contiguous() for x in found)
    given = {"grad": grad_o, "q": q, "k": k, "v": v}
    given = {name: x if x is None or x.stride(2) == 1 else x.contiguous() for name, x in given.items()}
    tokens, query_heads, key_dim = q.shape
    heads = k.shape[1]
    made = {"grad_q": _zeros(q), "grad_k": _zeros(k), "grad_v": None if v is None else _zeros(v)}
    made["grad_sinks"] = None if sinks is None else empty(sinks.shape, torch.float32)
    call = AttentionGradCall(
        sequences=spans_4N.shape[1],
        tokens=tokens,
        heads=heads,
        group=query_heads // heads,
        K=key_dim,
        V=value_dim,
        window=window or 0,
        q_bf16=is_bf16(q),
        kv_bf16=is_bf16(k),
        scale=scale,
    )
    for name, x in given.items():
        if x is not None:
            setattr(call, f"{name}_row", x.stride(0))
            setattr(call, f"{name}_head", x.stride(1))
    named = dict(zip(("offset", "length"), spans_4N)) | given | made
    named |= {"o": o, "max": maximum, "sum": total, "sinks": None if sinks is None else sinks.contiguous()}
    named["by_head"] = empty((3, query_heads, tokens), torch.float32)
    for name, tensor in named.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
    launch("attention_grad", call, spans_4N, named)
    grad_v = None if v is None else made["grad_v"][..., :value_dim]
    return made["grad_q"][..., :key_dim], made["grad_k"][..., :key_dim], grad_v, made["grad_sinks"]


def _zeros(x_THK: torch.Tensor) -> torch.Tensor:
    tokens, heads, width = x_THK.shape
    return torch.zeros(tokens, heads, -(-width // LANES) * LANES, dtype=torch.float32)
