"""The torch backend's backward pass of the delta rules: it recomputes all but u and the anchors.

Gradients (G' = dL/dG; M = (I + A)^-1; everything per chunk, chunks in reverse):
    u' = P^T o' + k_out^T S1';  rhs' = M^T u';  S0' = decay S1' + q_in^T o' - (beta k_in)^T rhs'
    A' = -rhs' u^T;  P' = o' u^T;  v' = beta rhs';  k_in' = -beta rhs' S0^T;  q_in' = o' S0^T;  k_out' = S1' u^T
Only S' runs over chunks in order; the rest is done for all chunks at once. What `measure` computed from q, k, decays
and betas is differentiated by autograd, a stretch of items at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_chain import step_groups
from hyla.ops.chunks.delta_rule import DeltaRule
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import chunk_plan
from hyla.ops.chunks.states import by_rank, by_sequence


def backward(
    rule: DeltaRule,
    inputs: Sequence[torch.Tensor],
    kept: Sequence[torch.Tensor],
    grad_o_THV: torch.Tensor,
    grad_final_NHKV: torch.Tensor | None,
    *,
    batch: Batch,
    has_state: bool,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Gradients of q (scaled), k, v, log_decay and beta, by flat row, and with `has_state` of the first states.

    kept: u and the anchors of the forward pass (`DeltaOutputs`). grad_final: of the states after the last rows; None:
    they were not given out.
    """
    plan = chunk_plan(batch)
    u, anchors = kept
    q, k, v, decay, beta = (to_items(x, plan) for x in inputs)
    grad_o = to_items(grad_o_THV, plan)
    grads = [torch.empty_like(x) for x in (q, k, v, decay, beta)]
    starts = plan.step_starts()
    if grad_final_NHKV is None:
        grad_state = anchors.new_zeros(len(plan.sequences), *anchors.shape[1:])
    else:
        grad_state = by_rank(grad_final_NHKV, plan)
    for group in reversed(step_groups(plan, v.shape[1] * CHUNK * max(2 * k.shape[3], CHUNK))):
        first, last = starts[group[0]], starts[group[-1]] + plan.step_sizes[group[-1]]
        part = slice(first, last)
        with torch.enable_grad():
            leaves = [x[part].detach().requires_grad_() for x in (q, k, decay, beta)]
            intra = rule.measure(*leaves)
        outputs = _part_backward(
            intra, plan, group, first, grad_o[part], v[part], beta[part], u[part], anchors[part], grad_state
        )
        grad_intra, grads[2][part], grad_beta_rhs = outputs
        wanted = (intra.a_IHCC, intra.p_IHCC, intra.k_in_IHCK, intra.q_in_IHCK, intra.k_out_IHKC, intra.decay_IHK1)
        grads[0][part], grads[1][part], grads[3][part], grad_beta = torch.autograd.grad(wanted, leaves, grad_intra)
        grads[4][part] = grad_beta + grad_beta_rhs
    grad_first = by_sequence(grad_state, plan) if has_state else None
    return [from_items(grad, plan) for grad in grads], grad_first


def _part_backward(intra, plan, group, first, grad_o, v, beta, u, anchors, grad_state):
    """Gradients of one stretch of steps with respect to what `measure` gave, v, and beta in the right-hand side."""
    a, p, k_in, q_in = (x.detach() for x in (intra.a_IHCC, intra.p_IHCC, intra.k_in_IHCK, intra.q_in_IHCK))
    k_out, decay = intra.k_out_IHKC.detach(), intra.decay_IHK1.detach()
    eye = torch.eye(CHUNK, dtype=a.dtype, device=a.device)
    # In the backward pass rows may depend on each other: the library's solve is free to choose its order.
    inverse = torch.linalg.solve_triangular(a + eye, eye.expand_as(a), upper=False, unitriangular=True)
    from_output = p.transpose(-1, -2) @ grad_o
    q_grad_o = q_in.transpose(-1, -2) @ grad_o
    beta_k_in = beta[..., None] * k_in
    grad_rhs, grad_next = torch.empty_like(v), torch.empty_like(anchors)
    starts = plan.step_starts()
    for step in reversed(group):
        size = plan.step_sizes[step]
        here = slice(starts[step] - first, starts[step] - first + size)
        # A sequence with fewer chunks joins here, with the gradient of its final state or zero.
        grad_next[here] = grad_state[:size]
        grad_u = from_output[here] + k_out[here].transpose(-1, -2) @ grad_next[here]
        grad_rhs[here] = inverse[here].transpose(-1, -2) @ grad_u
        grad_state[:size] = (
            decay[here] * grad_next[here] + q_grad_o[here] - beta_k_in[here].transpose(-1, -2) @ grad_rhs[here]
        )
    # From here on nothing runs over chunks in order: one product for the whole stretch.
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
