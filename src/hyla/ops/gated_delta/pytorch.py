"""The gated delta rule in chunks: scalar decay per value head. PyTorch, any device, differentiable, the default."""

from __future__ import annotations

from functools import partial

import torch

from hyla.grid import CHUNK
from hyla.ops.backends import runs_anywhere
from hyla.ops.chunks import delta_backward, delta_walk
from hyla.ops.chunks.decay_rule import spread
from hyla.ops.chunks.decay_sums import append_sum, chunk_sums
from hyla.ops.chunks.delta_chain import Intra, fold
from hyla.ops.chunks.delta_row import append_row
from hyla.ops.chunks.delta_rule import DeltaRule
from hyla.ops.exact.batched import bmm

unsupported = runs_anywhere


def measure(q_IHCK, k_IHCK, log_decay_IHC, beta_IHC, old=None, is_old_OC: torch.Tensor | None = None) -> Intra:
    """Decays and dots of I chunks. q, k: [I, Hk, 64, K]; log_decay, beta: [I, Hv, 64].

    Decay is summed in float64 from the chunk's start, so that a difference of two sums costs no accuracy.
    old: "k_t" and "decay_sum" of the first items' open chunks, whose places are marked in is_old_OC.
    """
    dtype = q_IHCK.dtype
    heads, key_heads = beta_IHC.shape[1], k_IHCK.shape[1]
    k_t = k_IHCK.transpose(2, 3).contiguous()
    if old is None or is_old_OC is None:
        sums = chunk_sums(log_decay_IHC)
    else:
        ranks = old["ranks"]
        sums = chunk_sums(log_decay_IHC, old["decay_sum"], ranks, is_old_OC)
        k_t[ranks] = torch.where(is_old_OC.view(-1, 1, 1, CHUNK), old["k_t"], k_t[ranks])
    # Keys and queries meet the keys in one product, per key head; value heads of a group share it.
    kq = torch.cat([k_IHCK, q_IHCK], dim=2)
    dots = bmm(kq.flatten(0, 1), k_t.flatten(0, 1)).view(-1, key_heads, 2, CHUNK, CHUNK)
    dots = spread(dots, heads)
    place = torch.arange(CHUNK, device=sums.device)
    is_future = place[None, :] > place[:, None]
    # The difference is taken in float64 and rounded once; masked by minus infinity, so that no positive exponent
    # is formed.
    between = (sums[..., :, None] - sums[..., None, :]).to(dtype).masked_fill(is_future, float("-inf"))
    decays = torch.exp(between)
    is_earlier = (place[None, :] < place[:, None]).to(dtype)
    since_start = torch.exp(sums.to(dtype))[..., None]
    to_end = torch.exp((sums[..., -1:] - sums).to(dtype))
    return Intra(
        a_IHCC=dots[:, :, 0] * decays * beta_IHC[..., None] * is_earlier,
        p_IHCC=dots[:, :, 1] * decays,
        k_in_IHCK=spread(k_IHCK, heads) * since_start,
        q_in_IHCK=spread(q_IHCK, heads) * since_start,
        k_out_IHKC=spread(k_t, heads) * to_end[..., None, :],
        decay_IHK1=torch.exp(sums[..., -1:].to(dtype))[..., None],
        rows={"k_t": k_t.detach(), "decay_sum": sums.detach()},
    )


def load_rows(cache, slots) -> dict[str, torch.Tensor]:
    """The operator's own open rows of some slots, for `measure`."""
    return {"k_t": cache["k_t"][slots], "decay_sum": cache["decay_sum"][slots]}


def store_rows(cache, slot: int, rows: dict[str, torch.Tensor], count: int) -> None:
    """Keep an open chunk's rows (`Intra.rows` of its item); count: rows that exist."""
    cache["k_t"][slot] = rows["k_t"]
    cache["decay_sum"][slot] = rows["decay_sum"]


def append(plan, q_NHK, k_NHK, v_NHV, log_decay_NH, beta_NH, cache) -> torch.Tensor:
    """The chunk path on one new row per sequence; extends the cache and folds chunks that the row closes."""
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    count, heads = beta_NH.shape
    key_heads = k_NHK.shape[1]
    total = append_sum(plan, cache, log_decay_NH)
    cache["k_t"][slots_N, :, :, row_N] = k_NHK

    kq = torch.stack([k_NHK, q_NHK], dim=2)
    dots = bmm(kq.flatten(0, 1), cache["k_t"][slots].flatten(0, 1)).view(count, key_heads, 2, CHUNK)
    dots = spread(dots, heads)
    sums = cache["decay_sum"][slots]
    place = torch.arange(CHUNK, device=row_N.device)
    between = (total[..., None] - sums).to(q_NHK.dtype).masked_fill(place > row_N[:, None, None], float("-inf"))
    decays = torch.exp(between)
    a = dots[:, :, 0] * decays * beta_NH[..., None] * (place < row_N[:, None, None]).to(decays.dtype)
    since_start = torch.exp(total.to(q_NHK.dtype))[..., None, None]
    out = append_row(plan, a, dots[:, :, 1] * decays, spread(kq, heads) * since_start, v_NHV, beta_NH, cache)
    if len(plan.closing):
        _close(cache, slots_N[plan.closing], heads)
    return out


def _close(cache, slots, heads: int) -> None:
    """Fold full chunks into their anchors."""
    sums, anchor = cache["decay_sum"][slots], cache["anchor"][slots]
    to_end = torch.exp((sums[..., -1:] - sums).to(anchor.dtype))
    k_out = spread(cache["k_t"][slots], heads) * to_end[..., None, :]
    decay = torch.exp(sums[..., -1:].to(anchor.dtype))[..., None]
    folded = fold(anchor.flatten(0, 1), decay.flatten(0, 1), k_out.flatten(0, 1), cache["u"][slots].flatten(0, 1))
    cache["anchor"][slots] = folded.view_as(anchor)


RULE = DeltaRule(measure, load_rows, store_rows, append)
forward = partial(delta_walk.forward, RULE)
backward = partial(delta_backward.backward, RULE)
