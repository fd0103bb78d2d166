"""The kernel of the operators without a solve (decay.c) as a function: for the CPU, fp32, without autograd."""

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
