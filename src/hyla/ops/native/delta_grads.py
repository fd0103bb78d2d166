"""The backward pass of the delta rules as a function on tensors; see delta_grad.c."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, c_int64, c_void_p

import torch

from hyla.ops.native.launching import empty, launch

INPUTS = ("q", "k", "v", "log_decay", "beta")
GRADS = ("grad_q", "grad_k", "grad_v", "grad_decay", "grad_beta")


class DeltaGradCall(Structure):
    """The struct `Call` of delta_grad.c."""

    _fields_ = (
        ("sequences", c_int64),
        *((name, c_void_p) for name in ("offset", "length", "first_item", "items")),
        *((name, c_int64) for name in ("key_heads", "heads", "K", "V")),
        *((name, c_void_p) for name in (*INPUTS, "u_items", "anchor_items", "grad_o", "grad_final")),
        *((name, c_void_p) for name in (*GRADS, "grad_first")),
        ("per_channel", c_int64),
    )


def delta_grad(
    inputs: Sequence[torch.Tensor],
    kept: Sequence[torch.Tensor],
    grad_o_THV: torch.Tensor,
    grad_final_NHKV: torch.Tensor | None,
    *,
    spans_4N: torch.Tensor,
    items: Sequence[torch.Tensor],
    has_state: bool,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Gradients of q, k, v, log decay and beta, and with `has_state` of the states before the first rows [N, H, K, V].

    inputs: as `kernels.delta`, fp32. kept: u [I, H, 64, V] and anchors [I, H, K, V] of its call without a cache; items:
    its item lists. Every sequence starts at a multiple of 64. A sequence's gradients have the same bits whatever
    sequences come with it and however many threads there are.
    """
    tensors = [x.contiguous() for x in inputs]
    _, k, v, log_decay, _ = tensors
    grads = [empty(x.shape, x.dtype) for x in tensors]
    call = DeltaGradCall(
        sequences=spans_4N.shape[1], key_heads=k.shape[1], heads=v.shape[1], K=k.shape[2], V=v.shape[2]
    )
    call.per_channel = int(log_decay.dim() == 3)
    named: dict[str, torch.Tensor] = dict(zip(("offset", "length"), spans_4N))
    named |= dict(zip(("first_item", "items"), items))
    named |= dict(zip(INPUTS, tensors)) | dict(zip(GRADS, grads)) | dict(zip(("u_items", "anchor_items"), kept))
    named["grad_o"] = grad_o_THV.contiguous()
    if grad_final_NHKV is not None:
        named["grad_final"] = grad_final_NHKV.contiguous()
    grad_first = None
    if has_state:
        shape = (spans_4N.shape[1], v.shape[1], k.shape[2], v.shape[2])
        grad_first = named["grad_first"] = empty(shape, v.dtype)
    for name, tensor in named.items():
        setattr(call, name, tensor.data_ptr())
    launch("delta_grad", call, spans_4N, named)
    return grads, grad_first
