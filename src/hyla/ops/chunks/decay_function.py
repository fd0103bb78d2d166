"""The operators without a solve under autograd: the backend's own forward and backward, between which only inputs and
anchors are kept."""

from __future__ import annotations

from types import ModuleType

import torch

from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_gradient import DecayGrads
from hyla.ops.chunks.decay_rule import DecayRule
from hyla.ops.chunks.decay_walk import DecayOutputs
from hyla.ops.chunks.states import check_states


def decay_attention(
    name: str,
    backend: ModuleType,
    rule: DecayRule,
    inputs,
    *,
    scale: float = 1.0,
    batch: Batch,
    cache,
    state_NHKV: torch.Tensor | None,
    return_state: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Outputs [T, H, V] of a linear attention, with `return_state` and the final states [N, H, K, V].

    inputs: q [T, G, K], k, v [T, H, V] and the rule's decays [T, H, ...], whose shapes the caller checked;
    scale: factor on q.
    """
    _, k, v, *_ = inputs
    check_states(name, batch, cache, state_NHKV, return_state, (v.shape[1], k.shape[2], v.shape[2]), v)
    if cache is not None:
        return backend.forward(rule, inputs, batch=batch, scale=scale, cache=cache).o_THV
    q, *others = inputs
    inputs = (q if scale == 1.0 else q * scale, *others)
    o_THV, final_NHKV = _DecayAttention.apply(rule, backend, batch, return_state, state_NHKV, *inputs)
    return (o_THV, final_NHKV) if return_state else o_THV


class _DecayAttention(torch.autograd.Function):
    """apply(rule, backend, batch, return_state, state [N, H, K, V] or None, q, k, v, *decays) -> o and the final states
    or None."""

    @staticmethod
    def forward(ctx, rule, backend, batch: Batch, return_state: bool, state_NHKV, *inputs):
        keep = any(ctx.needs_input_grad)
        found: DecayOutputs = backend.forward(
            rule, inputs, batch=batch, state_NHKV=state_NHKV, return_state=return_state, keep=keep
        )
        if keep:
            ctx.save_for_backward(*inputs, found.anchors_IHKV)
            ctx.rule, ctx.backward, ctx.batch, ctx.has_state = rule, backend.backward, batch, state_NHKV is not None
        return found.o_THV, found.final_NHKV

    @staticmethod
    def backward(ctx, grad_o_THV, grad_final_NHKV):
        *inputs, anchors = ctx.saved_tensors
        found: DecayGrads = ctx.backward(
            ctx.rule, inputs, anchors, grad_o_THV, grad_final_NHKV, batch=ctx.batch, has_state=ctx.has_state
        )
        return None, None, None, None, found.state_NHKV, *found.inputs
