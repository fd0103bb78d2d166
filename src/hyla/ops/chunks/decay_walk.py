"""The torch backend of the operators without a solve: whole sequences from a state, or new rows against a cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from hyla.ops.batch import Batch
from hyla.ops.chunks.decay_chain import added, next_anchor, outputs, run_chain
from hyla.ops.chunks.decay_rule import DecayRule, OldRows
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan, RowPlan, chunk_plan
from hyla.ops.chunks.routing import extend_cached
from hyla.ops.chunks.states import by_rank, by_sequence


@dataclass(frozen=True)
class DecayOutputs:
    """What a backend's forward pass gives."""

    o_THV: torch.Tensor
    anchors_IHKV: torch.Tensor | None = None
    """The anchor that each item read, when asked to keep it (autograd)."""
    final_NHKV: torch.Tensor | None = None
    """The state after each sequence's last row, when asked for."""


def forward(
    rule: DecayRule,
    inputs,
    *,
    batch: Batch,
    scale: float = 1.0,
    cache=None,
    state_NHKV: torch.Tensor | None = None,
    return_state: bool = False,
    keep: bool = False,
) -> DecayOutputs:
    """Outputs of a linear attention. inputs: q, k, v and the rule's decays by flat row; scale: factor on q."""
    if scale != 1.0:
        q, *others = inputs
        inputs = (q * scale, *others)
    if cache is not None:
        append, extend = partial(_append, rule, cache), partial(_extend, rule, batch, cache)
        return DecayOutputs(extend_cached(batch, inputs, append, extend, torch.empty_like(inputs[2])))
    plan = chunk_plan(batch)
    q, k, v, *decays = (to_items(x, plan) for x in inputs)
    if state_NHKV is None:
        start = v.new_zeros(len(plan.sequences), v.shape[1], k.shape[3], v.shape[3])
    else:
        start = by_rank(state_NHKV, plan)
    result = run_chain(
        plan,
        rule,
        q,
        lambda part: rule.rows(k[part], v[part], *(x[part] for x in decays)),
        start,
        keep_anchors=keep,
        count_I=plan.count_I if return_state else None,
    )
    final = by_sequence(result.final_RHKV, plan) if return_state else None
    return DecayOutputs(from_items(result.o_IHCV, plan), result.anchors_IHKV, final)


def _extend(rule: DecayRule, batch: Batch, cache, plan: ChunkPlan, *inputs) -> torch.Tensor:
    """Rows of the prefill sequences, continuing their open chunks; leaves anchors and open rows in the cache."""
    q, k, v, *decays = (to_items(x, plan) for x in inputs)
    held = batch.cached_slots
    slots = [held[n] for n in plan.sequences]
    slots_R, old = batch.index(slots), None
    if plan.open_ranks:
        ranks = list(plan.open_ranks)
        open_slots = slots_R[ranks]
        old = OldRows(ranks, plan.is_old_OC, {name: cache[name][open_slots] for name in rule.names})

    def rows_of(part: slice):
        # Only the first chunk that a sequence touches can have old rows, and all of those are in the first stretch.
        first = old if part.start == 0 else None
        return rule.rows(k[part], v[part], *(x[part] for x in decays), old=first)

    result = run_chain(plan, rule, q, rows_of, cache["anchor"][slots_R])
    cache["anchor"][slots_R] = result.final_RHKV
    for rank, rows in result.tails.items():
        for name in rule.names:
            cache[name][slots[rank]] = rows[name]
    return from_items(result.o_IHCV, plan)


def _append(rule: DecayRule, cache, plan: RowPlan, q_NGK, k_NGK, v_NHV, *decays) -> torch.Tensor:
    """The chunk path on one new row per sequence; extends the cache and folds chunks that the row closes."""
    rule.append(plan, cache, k_NGK, v_NHV, *decays)
    rows = {name: cache[name][plan.slots] for name in rule.names}
    read = rule.read(q_NGK[:, :, None], rows, plan.row_N)
    o_NH1V = outputs(read, cache["anchor"][plan.slots], rows["v"])
    if len(plan.closing):
        closing = plan.slots_N[plan.closing]
        fold = rule.fold({name: cache[name][closing] for name in rule.names})
        cache["anchor"][closing] = next_anchor(cache["anchor"][closing], fold.decay, added(fold))
    return o_NH1V[:, :, 0]
