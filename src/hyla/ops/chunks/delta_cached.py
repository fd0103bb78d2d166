"""A delta rule over a packed batch: whole sequences under autograd, or new rows against a cache."""

from __future__ import annotations

from types import ModuleType

import torch

from hyla.errors import ConfigError
from hyla.grid import BLOCK, CHUNK
from hyla.ops import native
from hyla.ops.batch import Batch
from hyla.ops.chunks.delta_chain import OldRows, run_chain
from hyla.ops.chunks.delta_function import DeltaRule
from hyla.ops.chunks.items import from_items, to_items
from hyla.ops.chunks.plan import ChunkPlan
from hyla.ops.native import kernels


def delta_rule(kind: ModuleType, q, k, v, log_decay, beta, *, batch: Batch, cache, scale: float) -> torch.Tensor:
    """Outputs [T, Hv, V]. kind: the operator's chunked module (measure, load_rows, store_rows, append,
    NATIVE: cache names by field of the native call)."""
    _check(q, k, v, log_decay, beta, batch)
    q = q * scale
    if cache is None:
        return DeltaRule.apply(kind.measure, batch, q, k, v, log_decay, beta)
    inputs = (q, k, v, log_decay, beta)
    if native.handles(v):
        return kernels.delta(inputs, batch.spans_4N, {field: cache[name] for name, field in kind.NATIVE.items()})
    out = torch.empty_like(v)
    if batch.decode_sequences:
        plan = batch.row_plan
        if plan.covers_batch:
            return kind.append(plan, *inputs, cache)
        out[plan.flat_rows_N] = kind.append(plan, *(x[plan.flat_rows_N] for x in inputs), cache)
    if batch.prefill_sequences:
        plan = batch.chunk_plan
        out[plan.flat_rows_T] = _extend(kind, plan, inputs, batch, cache)
    return out


def _check(q, k, v, log_decay, beta, batch: Batch) -> None:
    tokens, heads = v.shape[:2]
    if q.shape != k.shape or heads % k.shape[1] or beta.shape != (tokens, heads) or log_decay.shape[:2] != beta.shape:
        raise ConfigError(
            f"delta rule: shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, "
            f"log_decay {tuple(log_decay.shape)}, beta {tuple(beta.shape)}"
        )
    if tokens != batch.num_tokens:
        raise ConfigError(f"delta rule: {tokens} rows for a batch of {batch.num_tokens} tokens")


def _extend(kind, plan: ChunkPlan, inputs, batch: Batch, cache) -> torch.Tensor:
    """Rows of the prefill sequences, continuing their open chunks; leaves anchors and open rows in the cache."""
    q, k, v, log_decay, beta = (to_items(x, plan) for x in inputs)
    slots = [batch.slots[n] for n in plan.sequences]
    slots_R = batch.index(slots)
    old = rows = None
    if plan.open_ranks:
        ranks = list(plan.open_ranks)
        open_slots = slots_R[ranks]
        old = OldRows(cache["u"][open_slots], cache["x"][open_slots], cache["t"][open_slots])
        rows = {**kind.load_rows(cache, open_slots), "ranks": ranks}

    def measure(part: slice):
        first = rows if part.start == 0 else None
        return kind.measure(q[part], k[part], log_decay[part], beta[part], first, plan.is_old_OC)

    result = run_chain(plan, measure, v, beta, cache["anchor"][slots_R], old=old)
    cache["anchor"][slots_R] = result.final_RHKV
    for rank in plan.tail_ranks:
        slot, item = slots[rank], plan.last_items[rank]
        count = batch.ends[plan.sequences[rank]] % CHUNK
        block = (count - 1) // BLOCK
        cache["u"][slot] = result.u_IHCV[item]
        cache["x"][slot] = result.x_IHCV[item, :, block * BLOCK : (block + 1) * BLOCK]
        cache["t"][slot] = result.t_IHBB[item, :, block]
        kind.store_rows(cache, slot, result.tails[rank], count)
    return from_items(result.o_IHCV, plan)
