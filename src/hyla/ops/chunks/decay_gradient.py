"""The torch backend's backward pass of the operators without a solve, from inputs and anchors alone.

Gradients (G' = dL/dG; everything per chunk, chunks in reverse; o'_s = since o'):
    P' = o' v^T;  q' = o'_s S0^T;  since' = sum(o' (q S0));  k' = S1' v^T;  decay' = sum(S0 * S1')
    v' = P^T o' (as read) and k^T S1' (as folded);  S0' = decay S1' + q^T o'_s
Only S' runs over chunks in order; the rest is done for a stretch of chunks at once. What the rule computed from
queries, keys, values and decays is differentiated by autograd, a stretch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_chain import stretches
from hyla.ops.chunks.decay_rule import DecayRule
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, chunk_plan
from hyla.ops.chunks.states import by_rank, by_sequence
from hyla.ops.exact.batched import bmm


class DecayGrads(NamedTuple):
    """What a backend's backward pass gives."""

    inputs: Sequence[torch.Tensor]
    """Of q, k, v and the decays by row."""
    state_NHKV: torch.Tensor | None
    """Of the states before the first rows, when asked for."""


def backward(
    rule: DecayRule,
    inputs: Sequence[torch.Tensor],
    anchors_IHKV: torch.Tensor,
    grad_o_THV: torch.Tensor,
    grad_final_NHKV: torch.Tensor | None,
    *,
    batch: Batch,
    has_state: bool,
) -> DecayGrads:
    """inputs: q (with its scale), k, v and the rule's decays by flat row; anchors: as `forward` kept them; grad_final:
    of the last states, None where none were given out; has_state: the sequences began with states."""
    plan, anchors = chunk_plan(batch), anchors_IHKV
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
            read = rule.read(q, rows)
            fold = rule.fold(rows, None if grad_final_NHKV is None else plan.count_I[part])
        pairs = _part_backward(
            plan, group, part.start, (read, fold, rows["v"]), grad_o[part], anchors[part], grad_state
        )
        # Decays that are constants, and factors that a rule does without, have no gradient.
        used, wanted = zip(*((x, grad) for x, grad in pairs if x is not None and x.requires_grad))
        for grad, value in zip(grads, torch.autograd.grad(used, leaves, wanted)):
            grad[part] = value
    grad_first = by_sequence(grad_state, plan) if has_state else None
    return DecayGrads([from_items(grad, plan) for grad in grads], grad_first)


def _product(a_IHMN: torch.Tensor, b_IHNP: torch.Tensor) -> torch.Tensor:
    """A product whose bits depend neither on other items nor on their number: gradients keep theirs in any batch."""
    return bmm(a_IHMN.flatten(0, 1), b_IHNP.flatten(0, 1)).unflatten(0, a_IHMN.shape[:2])


def _part_backward(plan: ChunkPlan, group: range, first: int, computed, grad_o, anchors, grad_state):
    """(what the rule computed, its gradient) for one stretch of steps; `grad_state` is moved to before it."""
    read, fold, v_leaf = computed
    q, since = read.q_IHRK.detach(), read.since_IHR1
    decay = fold.decay.detach().expand(anchors.shape[0], -1, -1, -1)
    grad_read = grad_o if since is None else grad_o * since.detach()
    q_grad_o = _product(q.transpose(-1, -2), grad_read)
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
        (read.p_IHRC, _product(grad_o, v_leaf.detach().transpose(-1, -2))),
        (read.q_IHRK, _product(grad_read, anchors.transpose(-1, -2))),
        (since, None if since is None else (grad_o * _product(q, anchors)).sum(-1, keepdim=True)),
        (v_leaf, _product(read.p_IHRC.detach().transpose(-1, -2), grad_o)),
        (fold.k_IHKC, _product(grad_next, fold.v_IHCV.detach().transpose(-1, -2))),
        (fold.v_IHCV, _product(fold.k_IHKC.detach().transpose(-1, -2), grad_next)),
        (fold.decay, (anchors * grad_next).sum_to_size(*fold.decay.shape)),
    )
