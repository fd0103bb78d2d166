"""The operators without a solve under autograd: the backend's own forward, and one backward from the anchors alone.

Gradients (G' = dL/dG; everything per chunk, chunks in reverse; o'_s = since o'):
    P' = o' v^T;  q' = o'_s S0^T;  since' = sum(o' (q S0));  k' = S1' v^T;  decay' = sum(S0 * S1')
    v' = P^T o' (as read) and k^T S1' (as folded);  S0' = decay S1' + q^T o'_s
Only S' runs over chunks in order; the rest is done for a stretch of chunks at once. What the rule computed from
queries, keys, values and decays is differentiated by autograd, a stretch at a time.
"""

from __future__ import annotations

from types import ModuleType

import torch

from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_chain import stretches
from hyla.ops.chunks.decay_rule import DecayRule
from hyla.ops.chunks.decay_walk import DecayOutputs
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, chunk_plan
from hyla.ops.chunks.states import by_rank, by_sequence, check_states


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
    o_THV, final_NHKV = _DecayAttention.apply(rule, backend.forward, batch, return_state, state_NHKV, *inputs)
    return (o_THV, final_NHKV) if return_state else o_THV


class _DecayAttention(torch.autograd.Function):
    """apply(rule, forward, batch, return_state, state [N, H, K, V] or None, q, k, v, *decays) -> o and the final states
    or None."""

    @staticmethod
    def forward(ctx, rule, forward, batch: Batch, return_state: bool, state_NHKV, *inputs):
        keep = any(ctx.needs_input_grad)
        found: DecayOutputs = forward(
            rule, inputs, batch=batch, state_NHKV=state_NHKV, return_state=return_state, keep=keep
        )
        if keep:
            ctx.save_for_backward(*inputs, found.anchors_IHKV)
            ctx.rule, ctx.plan = rule, chunk_plan(batch)
            ctx.return_state, ctx.has_state = return_state, state_NHKV is not None
        return found.o_THV, found.final_NHKV

    @staticmethod
    def backward(ctx, grad_o_THV, grad_final_NHKV):
        plan, rule = ctx.plan, ctx.rule
        *inputs, anchors = ctx.saved_tensors
        items = [to_items(x, plan) for x in inputs]
        grad_o = to_items(grad_o_THV, plan)
        grads = [torch.empty_like(x) for x in items]
        # No final state was given out: nothing flows back from behind the last chunk.
        if grad_final_NHKV is None:
            grad_state = anchors.new_zeros(len(plan.sequences), *anchors.shape[1:])
        else:
            grad_state = by_rank(grad_final_NHKV, plan)
        for group, part in reversed(stretches(plan, *anchors.shape[1:])):
            with torch.enable_grad():
                # What the rule computes is made again with a graph of its own, a stretch at a time;
                # the forward pass kept anchors only.
                leaves = [x[part].detach().requires_grad_() for x in items]
                q, *others = leaves
                rows = rule.rows(*others)
                read, fold = rule.read(q, rows), rule.fold(rows, plan.count_I[part] if ctx.return_state else None)
            pairs = _part_backward(
                plan, group, part.start, (read, fold, rows["v"]), grad_o[part], anchors[part], grad_state
            )
            # Decays that are constants, and factors that a rule does without, have no gradient.
            used, wanted = zip(*((x, grad) for x, grad in pairs if x is not None and x.requires_grad))
            for grad, value in zip(grads, torch.autograd.grad(used, leaves, wanted)):
                grad[part] = value
        grad_first = by_sequence(grad_state, plan) if ctx.has_state else None
        return None, None, None, None, grad_first, *(from_items(grad, plan) for grad in grads)


def _part_backward(plan: ChunkPlan, group: range, first: int, computed, grad_o, anchors, grad_state):
    """(what the rule computed, its gradient) for one stretch of steps; `grad_state` is moved to before it."""
    read, fold, v_leaf = computed
    q, since = read.q_IHRK.detach(), read.since_IHR1
    decay = fold.decay.detach().expand(anchors.shape[0], -1, -1, -1)
    grad_read = grad_o if since is None else grad_o * since.detach()
    q_grad_o = q.transpose(-1, -2) @ grad_read
    grad_next = torch.empty_like(anchors)
    starts = plan.step_starts()
    for step in reversed(group):
        size = plan.step_sizes[step]
        here = slice(starts[step] - first, starts[step] - first + size)
        grad_next[here] = grad_state[:size]
        grad_state[:size] = decay[here] * grad_next[here] + q_grad_o[here]
    # Values have two gradients, as read inside the chunk and as folded; autograd adds them when both are the same
    # tensor.
    return (
        (read.p_IHRC, grad_o @ v_leaf.detach().transpose(-1, -2)),
        (read.q_IHRK, grad_read @ anchors.transpose(-1, -2)),
        (since, None if since is None else (grad_o * (q @ anchors)).sum(-1, keepdim=True)),
        (v_leaf, read.p_IHRC.detach().transpose(-1, -2) @ grad_o),
        (fold.k_IHKC, grad_next @ fold.v_IHCV.detach().transpose(-1, -2)),
        (fold.v_IHCV, fold.k_IHKC.detach().transpose(-1, -2) @ grad_next),
        (fold.decay, (anchors * grad_next).sum_to_size(*fold.decay.shape)),
    )
