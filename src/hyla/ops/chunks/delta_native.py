"""The native backend of the delta rules: one kernel for whole sequences and for rows against a cache, and
one for the way back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_rule import DeltaOutputs
from hyla.ops.chunks.plan import chunk_plan
from hyla.ops.native import delta_grads, kernels


def forward(
    fields: dict[str, str],
    inputs,
    *,
    batch: Batch,
    cache=None,
    state_NHKV: torch.Tensor | None = None,
    return_state: bool = False,
    keep: bool = False,
) -> DeltaOutputs:
    """As `delta_walk.forward`. fields: the kernel's field for each of the operator's cache tensors."""
    if cache is not None:
        states = {field: cache[name] for name, field in fields.items()}
        return DeltaOutputs(kernels.delta(inputs, batch.spans_4N, states))
    _, k_THK, v_THV, *_ = inputs
    (heads, value_dim), key_dim = v_THV.shape[1:], k_THK.shape[2]
    states, final = {}, None
    if state_NHKV is not None:
        states["first"] = state_NHKV.contiguous()
    if return_state:
        # The kernel folds chunks that stay open as well when there is a place for final states.
        final = states["final"] = v_THV.new_empty(batch.num_sequences, heads, key_dim, value_dim)
    if not keep:
        return DeltaOutputs(kernels.delta(inputs, batch.spans_4N, states), final_NHKV=final)
    plan = chunk_plan(batch)
    items = plan.rows_IC.shape[0]
    # For the backward pass, in the order of the plan's items, as the torch backend keeps them.
    kept = (v_THV.new_empty(items, heads, CHUNK, value_dim), v_THV.new_empty(items, heads, key_dim, value_dim))
    return DeltaOutputs(kernels.delta(inputs, batch.spans_4N, states, plan.item_lists, kept), *kept, final)


def backward(
    inputs: Sequence[torch.Tensor],
    kept: Sequence[torch.Tensor],
    grad_o_THV: torch.Tensor,
    grad_final_NHKV: torch.Tensor | None,
    *,
    batch: Batch,
    has_state: bool,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """As `delta_backward.backward`."""
    return delta_grads.delta_grad(
        inputs,
        kept,
        grad_o_THV,
        grad_final_NHKV,
        spans_4N=batch.spans_4N,
        items=chunk_plan(batch).item_lists,
        has_state=has_state,
    )
