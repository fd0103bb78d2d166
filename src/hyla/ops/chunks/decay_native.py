"""The native backend of the operators without a solve: one kernel for whole sequences and for rows against a cache."""

from __future__ import annotations

import torch

from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_gradient import DecayGrads
from hyla.ops.chunks.decay_walk import DecayOutputs
from hyla.ops.chunks.plan import chunk_plan
from hyla.ops.native.decays import decay, decay_gradients


def forward(
    rule_number: int,
    fields: dict[str, str],
    rule,
    inputs,
    *,
    batch: Batch,
    scale: float = 1.0,
    cache=None,
    state_NHKV: torch.Tensor | None = None,
    return_state: bool = False,
    keep: bool = False,
) -> DecayOutputs:
    """As `decay_walk.forward`. rule_number: of `native.decays`; fields: the kernel's field for each of the operator's
    cache tensors."""
    inputs = (*inputs, *rule.constants)
    if cache is not None:
        states = {field: cache[name] for name, field in fields.items()}
        return DecayOutputs(decay(rule_number, inputs, batch.spans_4N, states, scale=scale))
    _, k, v, *_ = inputs
    (heads, value_dim), key_dim = v.shape[1:], k.shape[2]
    states, final = {}, None
    if state_NHKV is not None:
        states["first"] = state_NHKV.contiguous()
    if return_state:
        # The kernel folds chunks that stay open as well when there is a place for final states.
        final = states["final"] = v.new_empty(batch.num_sequences, heads, key_dim, value_dim)
    if not keep:
        return DecayOutputs(decay(rule_number, inputs, batch.spans_4N, states, scale=scale), final_NHKV=final)
    plan = chunk_plan(batch)
    # For the backward pass, in the order of the plan's items, as the torch backend keeps them.
    anchors = v.new_empty(plan.rows_IC.shape[0], heads, key_dim, value_dim)
    kept = {"items": plan.item_lists, "anchor_items": anchors}
    return DecayOutputs(decay(rule_number, inputs, batch.spans_4N, states, scale=scale, **kept), anchors, final)


def backward(
    rule_number: int,
    rule,
    inputs,
    anchors_IHKV: torch.Tensor,
    grad_o_THV: torch.Tensor,
    grad_final_NHKV: torch.Tensor | None,
    *,
    batch: Batch,
    has_state: bool,
) -> DecayGrads:
    """As `decay_gradient.backward`. A sequence's gradients depend on nothing else in the batch, bit for bit."""
    inputs = (*inputs, *rule.constants)
    grads = (grad_o_THV, grad_final_NHKV)
    items = chunk_plan(batch).item_lists
    found = decay_gradients(rule_number, inputs, batch.spans_4N, items, anchors_IHKV, *grads, has_state=has_state)
    return DecayGrads(*found)
