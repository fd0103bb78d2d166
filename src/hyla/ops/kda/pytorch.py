"""Kimi Delta Attention in chunks: a decay per key channel. PyTorch, any device, differentiable, the default.

A decay between two rows is always the exponential of a sum of the log decays between them (float64, from the later
row backwards): never positive, never a difference of large sums, so it holds for log decays of -50 a token and more.
Blocks of 16 rows stand on the absolute grid. Inside a block every pair has its own exponential; a row meets an earlier
block through that block's keys, decayed once to the block's end, and through its own decay since then.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import pad

from hyla.grid import BLOCK, CHUNK
from hyla.ops.backends import runs_anywhere
from hyla.ops.chunks import delta_walk
from hyla.ops.chunks.delta_chain import Intra, fold
from hyla.ops.chunks.delta_row import append_row
from hyla.ops.chunks.delta_rule import DeltaRule
from hyla.ops.exact.batched import bmm
from hyla.ops.kda.inside import InsideBlocks

BLOCKS = CHUNK // BLOCK

unsupported = runs_anywhere


def measure(q_IHCK, k_IHCK, log_decay_IHCK, beta_IHC, old=None, is_old_OC=None) -> Intra:
    """Decays and dots of I chunks. q, k, log_decay: [I, H, 64, K]; beta: [I, H, 64].

    old: the cache's rows of the first items' open chunks, whose places are marked in is_old_OC.
    """
    if old is not None:
        k_IHCK, log_decay_IHCK = _with_old_rows(k_IHCK, log_decay_IHCK, old, is_old_OC)
    q, k, log_decay = (x.unflatten(2, (BLOCKS, BLOCK)) for x in (q_IHCK, k_IHCK, log_decay_IHCK.double()))
    diagonal_a, diagonal_p, since_block, k_scaled = InsideBlocks.apply(q, k, log_decay)
    block_sum = since_block[:, :, :, -1]
    if old is not None:
        k_scaled, block_sum = _with_old_blocks(k_scaled, block_sum, old, is_old_OC)
    rows_a, rows_p, k_in, q_in = [], [], [], []
    for b in range(BLOCKS):
        row_a, row_p = [diagonal_a[:, :, b]], [diagonal_p[:, :, b]]
        since = since_block[:, :, b]
        for earlier in range(b - 1, -1, -1):
            kq = _decayed(k[:, :, b], q[:, :, b], since)
            dots = bmm(kq.flatten(0, 1), k_scaled[:, :, earlier].flatten(0, 1)).view(*kq.shape[:3], BLOCK)
            row_a.insert(0, dots[:, :, :BLOCK])
            row_p.insert(0, dots[:, :, BLOCK:])
            since = _further(since_block[:, :, b], block_sum, b, earlier)
        kq = _decayed(k[:, :, b], q[:, :, b], since)
        k_in.append(kq[:, :, :BLOCK])
        q_in.append(kq[:, :, BLOCK:])
        rows_a.append(pad(torch.cat(row_a, dim=-1), (0, (BLOCKS - 1 - b) * BLOCK)))
        rows_p.append(pad(torch.cat(row_p, dim=-1), (0, (BLOCKS - 1 - b) * BLOCK)))
    k_out, decay = _to_chunk_end(k_scaled, block_sum)
    return Intra(
        a_IHCC=torch.cat(rows_a, dim=2) * beta_IHC[..., None],
        p_IHCC=torch.cat(rows_p, dim=2),
        k_in_IHCK=torch.cat(k_in, dim=2),
        q_in_IHCK=torch.cat(q_in, dim=2),
        k_out_IHKC=k_out,
        decay_IHK1=decay,
        rows={
            "k_rows": k.detach(),
            "decay_rows": log_decay_IHCK.detach().unflatten(2, (BLOCKS, BLOCK)),
            "k_scaled": k_scaled.detach(),
            "block_sum": block_sum.detach(),
        },
    )


def _decayed(k, q, log_decay) -> torch.Tensor:
    """Keys and queries of a block, decayed: [I, H, 32, K]."""
    factor = torch.exp(log_decay.to(k.dtype))
    return torch.cat([k * factor, q * factor], dim=2)


def _further(since_block, block_sum, b: int, earlier: int) -> torch.Tensor:
    """Log decay from the start of block `earlier` to each row of block b: its own since b's start, and whole blocks."""
    between = block_sum[:, :, b - 1]
    for middle in range(b - 2, earlier - 1, -1):
        between = between + block_sum[:, :, middle]
    return since_block + between[:, :, None]


def _to_chunk_end(k_scaled, block_sum):
    """Keys decayed to the chunk's end, [.., K, 64], and the decay over the whole chunk, [.., K, 1]."""
    dtype = k_scaled.dtype
    parts, between = [k_scaled[:, :, -1]], block_sum[:, :, -1]
    for b in range(BLOCKS - 2, -1, -1):
        parts.insert(0, k_scaled[:, :, b] * torch.exp(between.to(dtype))[..., None])
        between = between + block_sum[:, :, b]
    return torch.cat(parts, dim=-1), torch.exp(between.to(dtype))[..., None]


def _with_old_rows(k, log_decay, old, is_old_OC):
    """Keys and log decays of the block that an open chunk was in when it was stored."""
    count = is_old_OC.shape[0]
    blocks = is_old_OC.view(count, BLOCKS, BLOCK)
    in_open_block = (blocks & ~blocks.all(-1, keepdim=True)).view(count, 1, CHUNK, 1)
    ranks = old["ranks"]
    k, log_decay = k.clone(), log_decay.clone()
    k[ranks] = torch.where(in_open_block, old["k_rows"].repeat(1, 1, BLOCKS, 1), k[ranks])
    log_decay[ranks] = torch.where(in_open_block, old["decay_rows"].repeat(1, 1, BLOCKS, 1), log_decay[ranks])
    return k, log_decay


def _with_old_blocks(k_scaled, block_sum, old, is_old_OC):
    """Whole blocks of open chunks, as they were stored."""
    is_whole = is_old_OC.view(-1, 1, BLOCKS, BLOCK).all(-1)
    ranks = old["ranks"]
    k_scaled, block_sum = k_scaled.clone(), block_sum.clone()
    k_scaled[ranks] = torch.where(is_whole[..., None, None], old["k_scaled"], k_scaled[ranks])
    block_sum[ranks] = torch.where(is_whole[..., None], old["block_sum"], block_sum[ranks])
    return k_scaled, block_sum


def load_rows(cache, slots) -> dict[str, torch.Tensor]:
    """The operator's own open rows of some slots, for `measure`."""
    return {name: cache[name][slots] for name in ("k_rows", "decay_rows", "k_scaled", "block_sum")}


def store_rows(cache, slot: int, rows: dict[str, torch.Tensor], count: int) -> None:
    """Keep an open chunk's rows (`Intra.rows` of its item); count: rows that exist."""
    block = (count - 1) // BLOCK
    cache["k_rows"][slot] = rows["k_rows"][:, block]
    cache["decay_rows"][slot] = rows["decay_rows"][:, block]
    cache["k_scaled"][slot] = rows["k_scaled"]
    cache["block_sum"][slot] = rows["block_sum"]


def append(plan, q_NHK, k_NHK, v_NHV, log_decay_NHK, beta_NH, cache) -> torch.Tensor:
    """The chunk path on one new row per sequence; extends the cache and folds chunks that the row closes."""
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    place_N, block_N = row_N % BLOCK, row_N // BLOCK
    cache["k_rows"][slots_N, :, place_N] = k_NHK
    cache["decay_rows"][slots_N, :, place_N] = log_decay_NHK
    k_rows = cache["k_rows"][slots]
    diagonal, since_block, decays = _row_in_block(q_NHK, k_NHK, k_rows, cache["decay_rows"][slots], place_N)
    since = _row_since(since_block, cache["block_sum"][slots], block_N)
    factor = torch.exp(since.to(k_NHK.dtype))
    kq_blocks = torch.stack([k_NHK[:, :, None] * factor, q_NHK[:, :, None] * factor], dim=3)
    scaled = cache["k_scaled"][slots]
    dots = bmm(kq_blocks[:, :, :BLOCKS].flatten(0, 2), scaled.flatten(0, 2))
    dots = dots.view(*kq_blocks.shape[:2], BLOCKS, 2, BLOCK)
    number = torch.arange(BLOCKS, device=row_N.device)[:, None, None]
    at = block_N[:, None, None, None, None]
    rows = torch.where(number == at, diagonal[:, :, None], torch.where(number < at, dots, 0.0))
    a, p = rows[:, :, :, 0].flatten(2), rows[:, :, :, 1].flatten(2)
    is_closing_block = place_N == BLOCK - 1
    if plan.has_block_end:
        _close_block(cache, slots_N, block_N, is_closing_block, k_rows, decays, since_block)
    a = a * beta_NH[..., None]
    out = append_row(plan, a, p, kq_blocks[:, :, BLOCKS], v_NHV, beta_NH, cache)
    if len(plan.closing):
        _close(cache, slots_N[plan.closing])
    return out


def _row_in_block(q, k, k_rows, decay_rows, place_N):
    """The row against its own block: (A without beta, P) [N, H, 2, 16], its sum since the block's start, decays."""
    place = torch.arange(BLOCK, device=place_N.device)
    shape = decay_rows.shape
    backwards = (place_N[:, None] - place).clamp_min(0)[:, None, :, None].expand(shape)
    sums = decay_rows.double().gather(2, backwards).cumsum(2)
    since_block = sums.gather(2, place_N[:, None, None, None].expand(-1, shape[1], 1, shape[3]))[:, :, 0]
    distance = place_N[:, None] - place
    to_row = sums.gather(2, (distance - 1).clamp_min(0)[:, None, :, None].expand(shape)).to(k.dtype)
    distance = distance[:, None, :, None]
    decays = torch.where(distance > 0, torch.exp(to_row), (distance == 0).to(k.dtype))
    weighted = decays * k_rows
    a = (weighted * k[:, :, None]).sum(-1) * (distance[..., 0] > 0)
    return torch.stack([a, (weighted * q[:, :, None]).sum(-1)], dim=2), since_block, decays


def _row_since(since_block, block_sum, block_N) -> torch.Tensor:
    """Log decay from the end of blocks 0 .. 3, and from the chunk's start (last), to the row: [N, H, 5, K].

    Entries of blocks that are not earlier than the row's are not used.
    """
    number = torch.arange(BLOCKS, device=block_N.device)
    shape = block_sum.shape
    backwards = (block_N[:, None] - number).clamp_min(0)[:, None, :, None].expand(shape)
    whole = block_sum.gather(2, backwards) * (number > 0)[:, None]
    sums = whole.cumsum(2)
    wanted = torch.cat([(block_N[:, None] - 1 - number).clamp_min(0), block_N[:, None]], dim=1)
    between = sums.gather(2, wanted[:, None, :, None].expand(-1, shape[1], -1, shape[3]))
    return since_block[:, :, None] + between


def _close_block(cache, slots_N, block_N, is_closing, k_rows, decays, since_block) -> None:
    """Decay a full block's keys to its end, once."""
    scaled = (decays * k_rows).transpose(2, 3)[is_closing]
    cache["k_scaled"][slots_N[is_closing], :, block_N[is_closing]] = scaled
    cache["block_sum"][slots_N[is_closing], :, block_N[is_closing]] = since_block[is_closing]


def _close(cache, slots) -> None:
    """Fold full chunks into their anchors."""
    k_out, decay = _to_chunk_end(cache["k_scaled"][slots], cache["block_sum"][slots])
    anchor = cache["anchor"][slots]
    folded = fold(anchor.flatten(0, 1), decay.flatten(0, 1), k_out.flatten(0, 1), cache["u"][slots].flatten(0, 1))
    cache["anchor"][slots] = folded.view_as(anchor)


RULE = DeltaRule(measure, load_rows, store_rows, append)
forward = partial(delta_walk.forward, RULE)
