"""The delta rules under autograd: the chain's own forward, and a backward that recomputes all but the anchors.

Gradients (G' = dL/dG; M = (I + A)^-1; everything per chunk, chunks in reverse):
    u' = P^T o' + k_out^T S1';  rhs' = M^T u';  S0' = decay S1' + q_in^T o' - (beta k_in)^T rhs'
    A' = -rhs' u^T;  P' = o' u^T;  v' = beta rhs';  k_in' = -beta rhs' S0^T;  q_in' = o' S0^T;  k_out' = S1' u^T
Only S' runs over chunks in order; the rest is done for all chunks at once. What `measure` computed from q, k, decays
and betas is differentiated by autograd, a stretch of items at a time.
"""

from __future__ import annotations

import torch

from hyla.grid import CHUNK
from hyla.ops import native
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_chain import run_chain, step_groups
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan
from hyla.ops.native import kernels


class DeltaRule(torch.autograd.Function):
    """apply(measure, batch, q [T, Hk, K] (scaled), k, v [T, Hv, V], log_decay, beta) -> o [T, Hv, V]."""

    @staticmethod
    def forward(ctx, measure, batch: Batch, q_THK, k_THK, v_THV, log_decay, beta_TH):
        plan, needs_grad = batch.chunk_plan, any(ctx.needs_input_grad)
        inputs = (q_THK, k_THK, v_THV, log_decay, beta_TH)
        if native.handles(v_THV):
            o_THV, u_IHCV, anchors_IHKV = _native_forward(inputs, batch, needs_grad)
        else:
            o_THV, u_IHCV, anchors_IHKV = _forward(measure, inputs, plan, needs_grad)
        if needs_grad:
            ctx.save_for_backward(*inputs, u_IHCV, anchors_IHKV)
            ctx.measure, ctx.plan = measure, plan
        return o_THV

    @staticmethod
    def backward(ctx, grad_o_THV):
        plan, measure = ctx.plan, ctx.measure
        *inputs, u, anchors = ctx.saved_tensors
        q, k, v, decay, beta = (to_items(x, plan) for x in inputs)
        grad_o = to_items(grad_o_THV, plan)
        grads = [torch.empty_like(x) for x in (q, k, v, decay, beta)]
        starts = plan.step_starts()
        grad_state = torch.zeros(len(plan.sequences), *anchors.shape[1:], dtype=anchors.dtype, device=anchors.device)
        groups = step_groups(plan, v.shape[1] * CHUNK * max(2 * k.shape[3], CHUNK))
        for group in reversed(groups):
            first, last = starts[group[0]], starts[group[-1]] + plan.step_sizes[group[-1]]
            part = slice(first, last)
            with torch.enable_grad():
                leaves = [x[part].detach().requires_grad_() for x in (q, k, decay, beta)]
                intra = measure(*leaves)
            outputs = _part_backward(
                intra, plan, group, first, grad_o[part], v[part], beta[part], u[part], anchors[part], grad_state
            )
            grad_intra, grads[2][part], grad_beta_rhs = outputs
            wanted = (intra.a_IHCC, intra.p_IHCC, intra.k_in_IHCK, intra.q_in_IHCK, intra.k_out_IHKC, intra.decay_IHK1)
            grads[0][part], grads[1][part], grads[3][part], grad_beta = torch.autograd.grad(wanted, leaves, grad_intra)
            grads[4][part] = grad_beta + grad_beta_rhs
        return None, None, *(from_items(grad, plan) for grad in grads)


def _forward(measure, inputs, plan: ChunkPlan, needs_grad: bool):
    """o [T, H, V], u and (when asked for) the anchors of all items."""
    q, k, v, decay, beta = (to_items(x, plan) for x in inputs)
    start = v.new_zeros(len(plan.sequences), v.shape[1], k.shape[3], v.shape[3])
    result = run_chain(
        plan,
        lambda part: measure(q[part], k[part], decay[part], beta[part]),
        v,
        beta,
        start,
        keep_anchors=needs_grad,
    )
    return from_items(result.o_IHCV, plan), result.u_IHCV, result.anchors_IHKV


def _native_forward(inputs, batch: Batch, needs_grad: bool):
    """The same by the native kernel."""
    _, k_THK, v_THV, *_ = inputs
    (heads, value_dim), plan = v_THV.shape[1:], batch.chunk_plan
    if not needs_grad:
        return kernels.delta(inputs, batch.spans_4N, {}), None, None
    items = plan.rows_IC.shape[0]
    kept = (v_THV.new_empty(items, heads, CHUNK, value_dim), v_THV.new_empty(items, heads, k_THK.shape[2], value_dim))
    return kernels.delta(inputs, batch.spans_4N, {}, plan.item_lists, kept), *kept


def _part_backward(intra, plan, group, first, grad_o, v, beta, u, anchors, grad_state):
    """Gradients of one stretch of steps with respect to what `measure` gave, v, and beta in the right-hand side."""
    a, p, k_in, q_in = (x.detach() for x in (intra.a_IHCC, intra.p_IHCC, intra.k_in_IHCK, intra.q_in_IHCK))
    k_out, decay = intra.k_out_IHKC.detach(), intra.decay_IHK1.detach()
    eye = torch.eye(CHUNK, dtype=a.dtype, device=a.device)
    inverse = torch.linalg.solve_triangular(a + eye, eye.expand_as(a), upper=False, unitriangular=True)
    from_output = p.transpose(-1, -2) @ grad_o
    q_grad_o = q_in.transpose(-1, -2) @ grad_o
    beta_k_in = beta[..., None] * k_in
    grad_rhs, grad_next = torch.empty_like(v), torch.empty_like(anchors)
    starts = plan.step_starts()
    for step in reversed(group):
        size = plan.step_sizes[step]
        here = slice(starts[step] - first, starts[step] - first + size)
        grad_next[here] = grad_state[:size]
        grad_u = from_output[here] + k_out[here].transpose(-1, -2) @ grad_next[here]
        grad_rhs[here] = inverse[here].transpose(-1, -2) @ grad_u
        grad_state[:size] = (
            decay[here] * grad_next[here] + q_grad_o[here] - beta_k_in[here].transpose(-1, -2) @ grad_rhs[here]
        )
    over_anchor = grad_rhs @ anchors.transpose(-1, -2)
    grad_decay = anchors * grad_next
    grad_decay = grad_decay.sum((2, 3), keepdim=True) if decay.shape[2] == 1 else grad_decay.sum(3, keepdim=True)
    grad_intra = (
        -(grad_rhs @ u.transpose(-1, -2)),
        grad_o @ u.transpose(-1, -2),
        -beta[..., None] * over_anchor,
        grad_o @ anchors.transpose(-1, -2),
        grad_next @ u.transpose(-1, -2),
        grad_decay,
    )
    grad_beta = ((v - k_in @ anchors) * grad_rhs).sum(-1)
    return grad_intra, beta[..., None] * grad_rhs, grad_beta
