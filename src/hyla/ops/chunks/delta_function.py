"""The delta rules under autograd: the backend's own forward, and its own backward, which recomputes all but u and the
anchors (`delta_backward`, `delta_native`)."""

from __future__ import annotations

from types import ModuleType

import torch

from hyla.errors import ConfigError
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_rule import DeltaOutputs
from hyla.ops.chunks.states import check_states


def delta_rule(
    name: str,
    backend: ModuleType,
    inputs,
    *,
    batch: Batch,
    cache,
    scale: float,
    state_NHKV: torch.Tensor | None,
    return_state: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Outputs [T, Hv, V] of a delta rule, with `return_state` and the final states [N, Hv, K, V].

    inputs: q, k, v, log_decay, beta. backend: its `forward` and `backward`.
    """
    q, k, v, log_decay, beta = inputs
    _check(name, q, k, v, log_decay, beta, batch)
    check_states(name, batch, cache, state_NHKV, return_state, (v.shape[1], k.shape[2], v.shape[2]), v)
    inputs = (q if scale == 1.0 else q * scale, k, v, log_decay, beta)
    if cache is not None:
        return backend.forward(inputs, batch=batch, cache=cache).o_THV
    o_THV, final_NHKV = _DeltaRule.apply(backend, batch, return_state, state_NHKV, *inputs)
    return (o_THV, final_NHKV) if return_state else o_THV


def _check(name: str, q, k, v, log_decay, beta, batch: Batch) -> None:
    tokens, heads = v.shape[:2]
    if q.shape != k.shape or heads % k.shape[1] or beta.shape != (tokens, heads) or log_decay.shape[:2] != beta.shape:
        raise ConfigError(
            f"{name}: shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, "
            f"log_decay {tuple(log_decay.shape)}, beta {tuple(beta.shape)}"
        )
    if tokens != batch.num_tokens:
        raise ConfigError(f"{name}: {tokens} rows for a batch of {batch.num_tokens} tokens")


class _DeltaRule(torch.autograd.Function):
    """apply(backend, batch, return_state, state [N, H, K, V] or None, q [T, Hk, K] (scaled), k, v [T, H, V],
    log_decay, beta) -> o [T, H, V] and the final states or None."""

    @staticmethod
    def forward(ctx, backend: ModuleType, batch: Batch, return_state: bool, state_NHKV, *inputs):
        keep = any(ctx.needs_input_grad)
        found: DeltaOutputs = backend.forward(
            inputs, batch=batch, state_NHKV=state_NHKV, return_state=return_state, keep=keep
        )
        if keep:
            ctx.save_for_backward(*inputs, found.u_IHCV, found.anchors_IHKV)
            ctx.backend, ctx.batch, ctx.has_state = backend, batch, state_NHKV is not None
        return found.o_THV, found.final_NHKV

    @staticmethod
    def backward(ctx, grad_o_THV, grad_final_NHKV):
        *inputs, u, anchors = ctx.saved_tensors
        grads, grad_first = ctx.backend.backward(
            inputs, (u, anchors), grad_o_THV, grad_final_NHKV, batch=ctx.batch, has_state=ctx.has_state
        )
        return None, None, None, grad_first, *grads
