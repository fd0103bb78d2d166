"""Kimi Delta Attention in chunks: the delta rule with a decay per key channel (`ops.chunks.channel_decay`)."""

from __future__ import annotations

from functools import partial

import torch

from hyla.grid import BLOCK, CHUNK
from hyla.ops.backends import runs_anywhere
from hyla.ops.chunks import channel_decay, delta_backward, delta_walk
from hyla.ops.chunks.delta_chain import Intra, fold
from hyla.ops.chunks.delta_row import append_row
from hyla.ops.chunks.delta_rule import DeltaRule
from hyla.ops.chunks.inside_blocks import InsideBlocks

BLOCKS = CHUNK // BLOCK

unsupported = runs_anywhere


def measure(q_IHCK, k_IHCK, log_decay_IHCK, beta_IHC, old=None, is_old_OC=None) -> Intra:
    """Decays and dots of I chunks. q, k, log_decay: [I, H, 64, K]; beta: [I, H, 64].

    old: the cache's rows of the first items' open chunks, whose places are marked in is_old_OC.
    """
    if old is not None:
        k_IHCK, log_decay_IHCK = channel_decay.with_old_rows(k_IHCK, log_decay_IHCK, old, is_old_OC)
    q, k, log_decay = (x.unflatten(2, (BLOCKS, BLOCK)) for x in (q_IHCK, k_IHCK, log_decay_IHCK.double()))
    diagonal_a, diagonal_p, since_block, k_scaled = InsideBlocks.apply(q, k, log_decay, True)
    block_sum = since_block[:, :, :, -1]
    if old is not None:
        k_scaled, block_sum = channel_decay.with_old_blocks(k_scaled, block_sum, old, is_old_OC)
    (a, p), (k_in, q_in) = channel_decay.across_blocks(
        (k, q), (diagonal_a, diagonal_p), since_block, k_scaled, block_sum
    )
    k_out, decay = channel_decay.to_chunk_end(k_scaled, block_sum)
    return Intra(
        a_IHCC=a * beta_IHC[..., None],
        p_IHCC=p,
        k_in_IHCK=k_in,
        q_in_IHCK=q_in,
        k_out_IHKC=k_out,
        decay_IHK1=decay,
        rows={
            "k_rows": k.detach(),
            "decay_rows": log_decay_IHCK.detach().unflatten(2, (BLOCKS, BLOCK)),
            "k_scaled": k_scaled.detach(),
            "block_sum": block_sum.detach(),
        },
    )


def append(plan, q_NHK, k_NHK, v_NHV, log_decay_NHK, beta_NH, cache) -> torch.Tensor:
    """The chunk path on one new row per sequence; extends the cache and folds chunks that the row closes."""
    (a, p), kq_in = channel_decay.append_row(plan, (k_NHK, q_NHK), k_NHK, log_decay_NHK, cache)
    # A solve has earlier rows only: the row's key with itself is no part of A.
    is_other = torch.arange(CHUNK, device=a.device) != plan.row_N[:, None, None]
    out = append_row(plan, a * is_other * beta_NH[..., None], p, kq_in, v_NHV, beta_NH, cache)
    if len(plan.closing):
        _close(cache, plan.slots_N[plan.closing])
    return out


def _close(cache, slots) -> None:
    """Fold full chunks into their anchors."""
    k_out, decay = channel_decay.to_chunk_end(cache["k_scaled"][slots], cache["block_sum"][slots])
    anchor = cache["anchor"][slots]
    folded = fold(anchor.flatten(0, 1), decay.flatten(0, 1), k_out.flatten(0, 1), cache["u"][slots].flatten(0, 1))
    cache["anchor"][slots] = folded.view_as(anchor)


RULE = DeltaRule(measure, channel_decay.load_rows, channel_decay.store_rows, append)
forward = partial(delta_walk.forward, RULE)
backward = partial(delta_backward.backward, RULE)
