"""The torch backend of the delta rules: whole sequences from a state, or new rows against a cache."""

from __future__ import annotations

from functools import partial

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_chain import OldRows, run_chain
from hyla.ops.chunks.delta_rule import DeltaOutputs, DeltaRule
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, chunk_plan
from hyla.ops.chunks.routing import extend_cached
from hyla.ops.chunks.states import by_rank, by_sequence


def forward(
    rule: DeltaRule,
    inputs,
    *,
    batch: Batch,
    cache=None,
    state_NHKV: torch.Tensor | None = None,
    return_state: bool = False,
    keep: bool = False,
) -> DeltaOutputs:
    """Outputs of a delta rule. inputs: q (scaled), k, v, log_decay, beta by flat row.

    keep: u and the anchors of all items too.
    """
    if cache is not None:
        extend, append = partial(_extend, rule, batch, cache), partial(_append, rule, cache)
        return DeltaOutputs(extend_cached(batch, inputs, append, extend, torch.empty_like(inputs[2])))
    plan = chunk_plan(batch)
    q, k, v, decay, beta = (to_items(x, plan) for x in inputs)
    if state_NHKV is None:
        start = v.new_zeros(len(plan.sequences), v.shape[1], k.shape[3], v.shape[3])
    else:
        start = by_rank(state_NHKV, plan)
    result = run_chain(
        plan,
        lambda part: rule.measure(q[part], k[part], decay[part], beta[part]),
        v,
        beta,
        start,
        keep_anchors=keep,
        fold_tails=return_state,
    )
    final = by_sequence(result.final_RHKV, plan) if return_state else None
    return DeltaOutputs(from_items(result.o_IHCV, plan), result.u_IHCV, result.anchors_IHKV, final)


def _append(rule: DeltaRule, cache, plan, *inputs) -> torch.Tensor:
    return rule.append(plan, *inputs, cache)


def _extend(rule: DeltaRule, batch: Batch, cache, plan: ChunkPlan, *inputs) -> torch.Tensor:
    """Rows of the prefill sequences, continuing their open chunks; leaves anchors and open rows in the cache."""
    q, k, v, log_decay, beta = (to_items(x, plan) for x in inputs)
    held = batch.cached_slots
    slots = [held[n] for n in plan.sequences]
    slots_R = batch.index(slots)
    old = rows = None
    if plan.open_ranks:
        ranks = list(plan.open_ranks)
        open_slots = slots_R[ranks]
        old = OldRows(cache["u"][open_slots], cache["x"][open_slots], cache["t"][open_slots])
        rows = {**rule.load_rows(cache, open_slots), "ranks": ranks}

    def measure(part: slice):
        # Only the first chunk that a sequence touches has old rows, and all of those are in the first stretch.
        first = rows if part.start == 0 else None
        return rule.measure(q[part], k[part], log_decay[part], beta[part], first, plan.is_old_OC)

    result = run_chain(plan, measure, v, beta, cache["anchor"][slots_R], old=old)
    cache["anchor"][slots_R] = result.final_RHKV
    for rank in plan.tail_ranks:
        slot, item = slots[rank], plan.last_items[rank]
        count = batch.ends[plan.sequences[rank]] % CHUNK
        # Of x and T only the block that the last row is in: a later row needs no others.
        block = (count - 1) // BLOCK
        cache["u"][slot] = result.u_IHCV[item]
        cache["x"][slot] = result.x_IHCV[item, :, block * BLOCK : (block + 1) * BLOCK]
        cache["t"][slot] = result.t_IHBB[item, :, block]
        rule.store_rows(cache, slot, result.tails[rank], count)
    return from_items(result.o_IHCV, plan)
