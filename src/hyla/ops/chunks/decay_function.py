"""The chain under autograd: its own forward, and a backward that recomputes all but the anchors.

Gradients (G' = dL/dG; everything per chunk, chunks in reverse):
    v' = P^T o' + k_out^T S1';  S0' = decay S1' + q_in^T o';  P' = o' v^T
    q_in' = o' S0^T;  k_out' = S1' v^T;  decay' = sum(S0 * S1')
Only S' runs over chunks in order; the rest is done for a stretch of chunks at once. What `measure` computed from
queries, keys and decays is differentiated by autograd, a stretch at a time.
"""

from __future__ import annotations

import torch

from hyla.ops.chunks.decay_chain import run_chain, stretches
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan


class DecayedAttention(torch.autograd.Function):
    """apply(measure, plan, v [T, H, V], q [T, Hk, K] (scaled), k, *decays) -> o [T, H, V].

    measure(q_IHCK, k_IHCK, *decays) -> Intra, made of differentiable operations; decays: [T, H, ...] or none.
    """

    @staticmethod
    def forward(ctx, measure, plan: ChunkPlan, v_THV, q_THK, k_THK, *decays):
        inputs = (v_THV, q_THK, k_THK, *decays)
        v, *others = (to_items(x, plan) for x in inputs)
        start = v.new_zeros(len(plan.sequences), v.shape[1], k_THK.shape[2], v.shape[3])
        needs_grad = any(ctx.needs_input_grad)
        result = run_chain(plan, lambda part: measure(*(x[part] for x in others)), v, start, keep_anchors=needs_grad)
        if needs_grad:
            ctx.save_for_backward(*inputs, result.anchors_IHKV)
            ctx.measure, ctx.plan = measure, plan
        return from_items(result.o_IHCV, plan)

    @staticmethod
    def backward(ctx, grad_o_THV):
        plan = ctx.plan
        *inputs, anchors = ctx.saved_tensors
        v, *others = (to_items(x, plan) for x in inputs)
        grad_o = to_items(grad_o_THV, plan)
        grad_v, grads = torch.empty_like(v), [torch.empty_like(x) for x in others]
        grad_state = anchors.new_zeros(len(plan.sequences), *anchors.shape[1:])
        for group, part in reversed(stretches(plan, v.shape[1], *anchors.shape[2:])):
            with torch.enable_grad():
                leaves = [x[part].detach().requires_grad_() for x in others]
                intra = ctx.measure(*leaves)
            outputs = (intra.p_IHCC, intra.q_in_IHCK, intra.k_out_IHKC, intra.decay)
            grad_v[part], wanted = _part_backward(
                plan, group, part.start, outputs, grad_o[part], v[part], anchors[part], grad_state
            )
            used, grad_used = zip(*(pair for pair in zip(outputs, wanted) if pair[0].requires_grad))
            for grad, value in zip(grads, torch.autograd.grad(used, leaves, grad_used)):
                grad[part] = value
        return None, None, *(from_items(grad, plan) for grad in (grad_v, *grads))


def _part_backward(plan: ChunkPlan, group: range, first: int, outputs, grad_o, v, anchors, grad_state):
    """Gradients of one stretch of steps with respect to v and to what `measure` gave."""
    p, q_in, k_out, decay = (x.detach() for x in outputs)
    decay = decay.expand(v.shape[0], -1, -1, -1)
    q_grad_o = q_in.transpose(-1, -2) @ grad_o
    grad_next = torch.empty_like(anchors)
    starts = plan.step_starts()
    for step in reversed(group):
        size = plan.step_sizes[step]
        here = slice(starts[step] - first, starts[step] - first + size)
        grad_next[here] = grad_state[:size]
        grad_state[:size] = decay[here] * grad_next[here] + q_grad_o[here]
    grad_v = p.transpose(-1, -2) @ grad_o + k_out.transpose(-1, -2) @ grad_next
    v_t = v.transpose(-1, -2)
    grad_decay = (anchors * grad_next).sum_to_size(*outputs[3].shape)
    return grad_v, (grad_o @ v_t, grad_o @ anchors.transpose(-1, -2), grad_next @ v_t, grad_decay)
