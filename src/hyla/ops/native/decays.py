"""The kernels of the operators without a solve (decay.c, decay_grad.c) as functions: CPU, fp32, no autograd."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, c_float, c_int64, c_void_p

import torch

from hyla.ops.native import launching

CONSTANT, SUMMED, BY_CHANNEL = range(3)
"""How a row decays: by a constant of its head, by a number of its own, or by one for each key channel."""


class DecayCall(Structure):
    """The struct `Call` of decay.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "start", "slot", "first_item", "items")),
        *((name, c_int64) for name in ("rule", "groups", "heads", "K", "V", "q_row", "k_row", "v_row")),
        *((name, c_void_p) for name in ("q", "k", "v", "log_decay", "table", "o")),
        *((name, c_void_p) for name in ("anchor", "v_rows", "keys", "sums", "decay_rows")),
        *((name, c_void_p) for name in ("anchor_items", "first", "final")),
        ("scale", c_float),
    )


def _with_dense_heads(x_THK: torch.Tensor) -> torch.Tensor:
    """Rows of heads side by side; they may be part of wider ones."""
    return x_THK if x_THK.stride(2) == 1 and x_THK.stride(1) == x_THK.shape[2] else x_THK.contiguous()


def decay(
    rule: int,
    inputs: Sequence[torch.Tensor],
    spans_4N: torch.Tensor,
    states: dict[str, torch.Tensor],
    *,
    scale: float,
    items: Sequence[torch.Tensor] = (),
    anchor_items: torch.Tensor | None = None,
) -> torch.Tensor:
    """Outputs [T, H, V] of a linear attention.

    inputs: q, k [T, G, K], v [T, H, V] and the decays of the rule: a table [H, 66] of `constant_decay`, log decays
    [T, H] or [T, H, K]; fp32. states: the cache's tensors by field of `DecayCall`, extended in place; without "anchor":
    whole sequences, from the states "first" [N, H, K, V] or from zero, and the last states into "final" where that is
    given. scale: factor on the queries. items: (int64 [N], int64) the first place of each sequence in the list of its
    chunks' items; anchor_items [I, H, K, V]: for the anchor that each of them read.
    """
    q, k, v = (_with_dense_heads(x) for x in inputs[:3])
    decays = inputs[3].contiguous()
    tokens, heads, value_dim = v.shape
    o = launching.empty((tokens, heads, value_dim), torch.float32)
    call = DecayCall(
        sequences=spans_4N.shape[1],
        rule=rule,
        groups=k.shape[1],
        heads=heads,
        K=k.shape[2],
        V=value_dim,
        q_row=q.stride(0),
        k_row=k.stride(0),
        v_row=v.stride(0),
        scale=scale,
    )
    named = dict(zip(("offset", "length", "start", "slot"), spans_4N))
    named |= {"q": q, "k": k, "v": v, "o": o, "table" if rule == CONSTANT else "log_decay": decays} | states
    named |= dict(zip(("first_item", "items"), items))
    if anchor_items is not None:
        named["anchor_items"] = anchor_items
    for name, tensor in named.items():
        setattr(call, name, tensor.data_ptr())
    launching.launch("decay", call, *named.values())
    return o


class DecayGradCall(Structure):
    """The struct `Call` of decay_grad.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "first_item", "items")),
        *((name, c_int64) for name in ("rule", "groups", "heads", "K", "V", "q_row", "k_row", "v_row")),
        *((name, c_void_p) for name in ("q", "k", "v", "log_decay", "table", "anchor_items", "grad_o", "grad_final")),
        *((name, c_void_p) for name in ("grad_q", "grad_k", "grad_v", "grad_decay", "grad_first")),
    )


def decay_gradients(
    rule: int,
    inputs: Sequence[torch.Tensor],
    spans_4N: torch.Tensor,
    items: Sequence[torch.Tensor],
    anchors_IHKV: torch.Tensor,
    grad_o_THV: torch.Tensor,
    grad_final_NHKV: torch.Tensor | None,
    *,
    has_state: bool,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Gradients of whole sequences: those of q, k, v and of log decays (a table has none), and with has_state those of
    the states before the first rows, [N, H, K, V].

    inputs, items, anchors: as `decay` had and filled them, queries with their scale. grad_final: of the last states,
    None where none were given out.
    """
    q, k, v = (_with_dense_heads(x) for x in inputs[:3])
    decays, grad_o_THV = inputs[3].contiguous(), grad_o_THV.contiguous()
    (heads, value_dim), (groups, key_dim) = v.shape[1:], k.shape[1:]
    call = DecayGradCall(
        sequences=spans_4N.shape[1],
        rule=rule,
        groups=groups,
        heads=heads,
        K=key_dim,
        V=value_dim,
        q_row=q.stride(0),
        k_row=k.stride(0),
        v_row=v.stride(0),
    )
    shapes = [x.shape for x in (q, k, v) + (() if rule == CONSTANT else (decays,))]
    grads = [launching.empty(shape, torch.float32) for shape in shapes]
    states = (spans_4N.shape[1], heads, key_dim, value_dim)
    grad_first = launching.empty(states, torch.float32) if has_state else None
    named = dict(zip(("offset", "length"), spans_4N)) | dict(zip(("first_item", "items"), items))
    named |= {"q": q, "k": k, "v": v, "table" if rule == CONSTANT else "log_decay": decays}
    named |= {"anchor_items": anchors_IHKV, "grad_o": grad_o_THV, "grad_first": grad_first}
    named |= dict(zip(("grad_q", "grad_k", "grad_v", "grad_decay"), grads))
    named["grad_final"] = None if grad_final_NHKV is None else grad_final_NHKV.contiguous()
    for name, tensor in named.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
    launching.launch("decay_grad", call, *named.values())
    return grads, grad_first
