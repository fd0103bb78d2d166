"""Lightning attention in chunks: constant decay per head. PyTorch, any device, differentiable, the default."""

from __future__ import annotations

from functools import lru_cache

import torch

from hyla.grid import CHUNK
from hyla.ops.backends import runs_anywhere
from hyla.ops.batch import Batch
from hyla.ops.chunks import decay_cached
from hyla.ops.chunks.decay_chain import Intra
from hyla.ops.chunks.decay_function import DecayedAttention
from hyla.ops.chunks.items import to_items
from hyla.ops.chunks.plan import RowPlan, chunk_plan, row_plan
from hyla.ops.exact.batched import bmm

unsupported = runs_anywhere


@lru_cache(maxsize=1024)
def decay_table(slopes: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """exp(-s * distance) for distances 0 to 64, and a last column of zeros for what is masked: [H, 66].

    The only place where a decay is computed; every path looks it up. Made in float64 on the host, rounded once.
    """
    with torch.inference_mode(False):
        slopes_H = torch.tensor(slopes, dtype=torch.float64, device="cpu")
        distances = torch.arange(CHUNK + 1, dtype=torch.float64, device="cpu")
        decays = torch.exp(-slopes_H[:, None] * distances)
        return torch.nn.functional.pad(decays, (0, 1)).to(device=device, dtype=dtype)


MASKED = CHUNK + 1
"""The column of `decay_table` that is zero."""


def _distances(row_N: torch.Tensor) -> torch.Tensor:
    """int64 [N, 64]: distance from each row's place in the chunk back to every place; MASKED for later places."""
    distance = row_N[:, None] - torch.arange(CHUNK, device=row_N.device)
    return torch.where(distance < 0, MASKED, distance)


def measure(q_IHCK: torch.Tensor, k_IHCK: torch.Tensor, table_HD: torch.Tensor) -> Intra:
    """Decays and dots of I chunks, [I, H, 64, K]."""
    place = torch.arange(CHUNK, device=table_HD.device)
    k_t = k_IHCK.transpose(2, 3).contiguous()
    dots = _dots(q_IHCK, k_t)
    return Intra(
        p_IHCC=dots * table_HD[:, _distances(place)],
        q_in_IHCK=q_IHCK * table_HD[:, place + 1, None],
        k_out_IHKC=k_t * table_HD[:, None, CHUNK - 1 - place],
        decay=table_HD[None, :, CHUNK, None, None],
    )


def _dots(q_IHCK: torch.Tensor, k_t_IHKC: torch.Tensor) -> torch.Tensor:
    items, heads = q_IHCK.shape[:2]
    return bmm(q_IHCK.flatten(0, 1), k_t_IHKC.flatten(0, 1)).view(items, heads, CHUNK, CHUNK)


def attend(q_THK, k_THK, v_THV, slopes: tuple[float, ...], *, batch: Batch, cache) -> torch.Tensor:
    """Outputs [T, H, V]; queries carry the scale."""
    table_HD = decay_table(slopes, v_THV.dtype, v_THV.device)
    if cache is None:

        def whole(q, k):
            return measure(q, k, table_HD)

        return DecayedAttention.apply(whole, chunk_plan(batch), v_THV, q_THK, k_THK)
    out = torch.empty_like(v_THV)
    if batch.decode_sequences:
        plan = row_plan(batch)
        if plan.covers_batch:
            return append(plan, q_THK, k_THK, v_THV, table_HD, cache)
        out[plan.flat_rows_N] = append(plan, *(x[plan.flat_rows_N] for x in (q_THK, k_THK, v_THV)), table_HD, cache)
    if batch.prefill_sequences:
        plan = chunk_plan(batch)
        q = to_items(q_THK, plan)

        def piece(part: slice, k):
            return measure(q[part], k[part], table_HD)

        out[plan.flat_rows_T] = decay_cached.extend(plan, piece, k_THK, v_THV, batch, cache)
    return out


def append(plan: RowPlan, q_NHK, k_NHK, v_NHV, table_HD: torch.Tensor, cache) -> torch.Tensor:
    """The chunk path on one new row per sequence; extends the cache and folds chunks that the row closes."""
    decay_cached.store_row(plan, k_NHK, v_NHV, cache)
    dots = decay_cached.dots_row(plan, q_NHK[:, :, None], cache)[:, :, 0]
    decays_NHC = table_HD[:, _distances(plan.row_N)].transpose(0, 1)
    q_in = q_NHK * table_HD[:, plan.row_N + 1].t()[..., None]
    out = decay_cached.read_row(plan, q_in, dots * decays_NHC, cache)
    if len(plan.closing):
        place = torch.arange(CHUNK, device=table_HD.device)
        k_out = cache["k_t"][plan.slots_N[plan.closing]] * table_HD[:, None, CHUNK - 1 - place]
        decay_cached.close(plan, k_out, table_HD[None, :, CHUNK, None, None], cache)
    return out
