"""A decay per key channel inside chunks, for operators with a solve (KDA) and without (GLA).

A decay between two rows is always the exponential of a sum of the log decays between them (float64, from the later
row backwards): never positive, never a difference of large sums, so it holds for log decays of -50 a token and more.
Blocks of 16 rows stand on the absolute grid. Inside a block every pair has its own exponential (`inside_blocks`); a row
meets an earlier block through that block's keys, decayed once to the block's end, and through its own decay since then.

Of an open chunk the cache keeps `CACHE_NAMES`: the keys and log decays of the block that is open, and of each whole
block its decayed keys and the sum of its log decays. What reads the keys, a *reader*, is a row's query (and, for delta
rules, its key).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from hyla.grid import BLOCK, CHUNK
from hyla.ops.chunks.plan import RowPlan
from hyla.ops.exact.batched import bmm
from hyla.ops.exact.sums import row_sum, running_sum
from hyla.ops.slots import SlotTensors

BLOCKS = CHUNK // BLOCK

CACHE_NAMES = ("k_rows", "decay_rows", "k_scaled", "block_sum")
"""Slot tensors: [H, 16, K] twice, [H, 4, K, 16] in fp32; [H, 4, K] in float64."""


def cache_tensors(*, num_heads: int, key_dim: int) -> SlotTensors:
    """(name, shape, dtype, role) of each of `CACHE_NAMES`."""
    single, double = torch.float32, torch.float64
    return (
        ("k_rows", (num_heads, BLOCK, key_dim), single, "open"),
        ("decay_rows", (num_heads, BLOCK, key_dim), single, "open"),
        ("k_scaled", (num_heads, BLOCKS, key_dim, BLOCK), single, "open"),
        ("block_sum", (num_heads, BLOCKS, key_dim), double, "open"),
    )


def across_blocks(
    readers: Sequence[torch.Tensor], diagonals: Sequence[torch.Tensor], since_block, k_scaled, block_sum
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """For each reader its products with a chunk's keys [I, H, 64, 64], and itself decayed from the chunk's start.

    readers: [I, H, 4, 16, K]; diagonals: their products inside the blocks [I, H, 4, 16, 16]; since_block: sums of log
    decays from the block's start to each row; k_scaled, block_sum: as in the cache.
    """
    products = [[] for _ in readers]
    decayed = [[] for _ in readers]
    for b in range(BLOCKS):
        rows = [[diagonal[:, :, b]] for diagonal in diagonals]
        since = since_block[:, :, b]
        for earlier in range(b - 1, -1, -1):
            # All readers in one product: its rows do not depend on one another.
            stacked = _decayed([reader[:, :, b] for reader in readers], since)
            dots = bmm(stacked.flatten(0, 1), k_scaled[:, :, earlier].flatten(0, 1)).view(*stacked.shape[:3], BLOCK)
            for row, part in zip(rows, dots.split(BLOCK, dim=2)):
                row.insert(0, part)
            since = _further(since_block[:, :, b], block_sum, b, earlier)
        stacked = _decayed([reader[:, :, b] for reader in readers], since)
        for found, part in zip(decayed, stacked.split(BLOCK, dim=2)):
            found.append(part)
        for found, row in zip(products, rows):
            found.append(pad(torch.cat(row, dim=-1), (0, (BLOCKS - 1 - b) * BLOCK)))
    return [torch.cat(found, dim=2) for found in products], [torch.cat(found, dim=2) for found in decayed]


def _decayed(readers: Sequence[torch.Tensor], log_decay) -> torch.Tensor:
    """Rows of a block, decayed and stacked: [I, H, 16 R, K]."""
    factor = torch.exp(log_decay.to(readers[0].dtype))
    return torch.cat([reader * factor for reader in readers], dim=2)


def _further(since_block, block_sum, b: int, earlier: int) -> torch.Tensor:
    """Log decay from the start of block `earlier` to each row of block b: its own since b's start, and whole blocks."""
    between = block_sum[:, :, b - 1]
    for middle in range(b - 2, earlier - 1, -1):
        between = between + block_sum[:, :, middle]
    return since_block + between[:, :, None]


def to_chunk_end(k_scaled, block_sum) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys decayed to the chunk's end, [.., K, 64], and the decay over the whole chunk, [.., K, 1]."""
    dtype = k_scaled.dtype
    parts, between = [k_scaled[:, :, -1]], block_sum[:, :, -1]
    for b in range(BLOCKS - 2, -1, -1):
        parts.insert(0, k_scaled[:, :, b] * torch.exp(between.to(dtype))[..., None])
        between = between + block_sum[:, :, b]
    return torch.cat(parts, dim=-1), torch.exp(between.to(dtype))[..., None]


def with_old_rows(k, log_decay, old, is_old_OC):
    """Keys and log decays of the block that an open chunk was in when it was stored."""
    count = is_old_OC.shape[0]
    blocks = is_old_OC.view(count, BLOCKS, BLOCK)
    in_open_block = (blocks & ~blocks.all(-1, keepdim=True)).view(count, 1, CHUNK, 1)
    ranks = old["ranks"]
    k, log_decay = k.clone(), log_decay.clone()
    k[ranks] = torch.where(in_open_block, old["k_rows"].repeat(1, 1, BLOCKS, 1), k[ranks])
    log_decay[ranks] = torch.where(in_open_block, old["decay_rows"].repeat(1, 1, BLOCKS, 1), log_decay[ranks])
    return k, log_decay


def with_old_blocks(k_scaled, block_sum, old, is_old_OC):
    """Whole blocks of open chunks, as they were stored."""
    is_whole = is_old_OC.view(-1, 1, BLOCKS, BLOCK).all(-1)
    ranks = old["ranks"]
    k_scaled, block_sum = k_scaled.clone(), block_sum.clone()
    k_scaled[ranks] = torch.where(is_whole[..., None, None], old["k_scaled"], k_scaled[ranks])
    block_sum[ranks] = torch.where(is_whole[..., None], old["block_sum"], block_sum[ranks])
    return k_scaled, block_sum


def load_rows(cache, slots) -> dict[str, torch.Tensor]:
    """The open rows of some slots."""
    return {name: cache[name][slots] for name in CACHE_NAMES}


def store_rows(cache, slot: int, rows: dict[str, torch.Tensor], count: int) -> None:
    """Keep an open chunk's rows, of one item: keys and log decays by block, and the rest. count: rows that exist."""
    block = (count - 1) // BLOCK
    cache["k_rows"][slot] = rows["k_rows"][:, block]
    cache["decay_rows"][slot] = rows["decay_rows"][:, block]
    cache["k_scaled"][slot] = rows["k_scaled"]
    cache["block_sum"][slot] = rows["block_sum"]


def append_row(
    plan: RowPlan, readers: Sequence[torch.Tensor], k_NHK, log_decay_NHK, cache
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """`across_blocks` for one new row per sequence: products [N, H, 64] and decayed readers [N, H, R, K].

    Its key and log decay go to the cache; a block that it fills is decayed to its end. A reader's product with the
    row's own key is among them.
    """
    slots, slots_N, row_N = plan.slots, plan.slots_N, plan.row_N
    place_N, block_N = row_N % BLOCK, row_N // BLOCK
    cache["k_rows"][slots_N, :, place_N] = k_NHK
    cache["decay_rows"][slots_N, :, place_N] = log_decay_NHK
    k_rows = cache["k_rows"][slots]
    decays, since_block = row_decays(cache["decay_rows"][slots], place_N, k_NHK.dtype)
    weighted = decays * k_rows
    found = row_products(readers, weighted, since_block, cache["k_scaled"][slots], cache["block_sum"][slots], block_N)
    if plan.has_block_end:
        is_last = place_N == BLOCK - 1
        closing = slots_N[is_last]
        cache["k_scaled"][closing, :, block_N[is_last]] = weighted.transpose(2, 3)[is_last]
        cache["block_sum"][closing, :, block_N[is_last]] = since_block[is_last]
    return found


def row_products(
    readers: Sequence[torch.Tensor], weighted_NHBK, since_block, k_scaled, block_sum, block_N
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One row's products with its chunk's keys [N, H, 64], by reader, and the decayed readers [N, H, R, K].

    weighted: keys of the row's own block, decayed to the row; k_scaled [N, H, 4, K, 16], block_sum: of whole blocks,
    those before block_N.
    """
    diagonal = torch.stack([row_sum(weighted_NHBK * reader[:, :, None]) for reader in readers], dim=2)
    factor = torch.exp(_row_since(since_block, block_sum, block_N).to(weighted_NHBK.dtype))
    decayed = torch.stack([reader[:, :, None] * factor for reader in readers], dim=3)
    dots = bmm(decayed[:, :, :BLOCKS].flatten(0, 2), k_scaled.flatten(0, 2))
    dots = dots.view(*decayed.shape[:2], BLOCKS, len(readers), BLOCK)
    number = torch.arange(BLOCKS, device=block_N.device)[:, None, None]
    at = block_N[:, None, None, None, None]
    rows = torch.where(number == at, diagonal[:, :, None], torch.where(number < at, dots, 0.0))
    return [row.flatten(2) for row in rows.unbind(3)], decayed[:, :, BLOCKS]


def to_block_ends(k, log_decay) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys decayed to the ends of their blocks, [.., K, 16], and the sums of the blocks' log decays, as `inside_blocks`
    makes them: from the last row backwards. k, log_decay (float64): [.., 16, K]."""
    sums = running_sum(log_decay.flip(-2), -2)
    after = torch.cat([torch.zeros_like(sums[..., :1, :]), sums[..., : BLOCK - 1, :]], dim=-2).flip(-2)
    return (k * torch.exp(after.to(k.dtype))).transpose(-1, -2).contiguous(), sums[..., -1, :]


def row_decays(decay_rows, place_N, dtype: torch.dtype):
    """The decay from each row of its block to the new row, [N, H, 16, K], zero after it; the log decay since its start.

    Summed from the row backwards, as `inside_blocks` does: the same additions in the same order.
    """
    place = torch.arange(BLOCK, device=place_N.device)
    shape = decay_rows.shape
    backwards = (place_N[:, None] - place).clamp_min(0)[:, None, :, None].expand(shape)
    sums = running_sum(decay_rows.double().gather(2, backwards), 2)
    since_block = sums.gather(2, place_N[:, None, None, None].expand(-1, shape[1], 1, shape[3]))[:, :, 0]
    distance = place_N[:, None] - place
    to_row = sums.gather(2, (distance - 1).clamp_min(0)[:, None, :, None].expand(shape)).to(dtype)
    distance = distance[:, None, :, None]
    return torch.where(distance > 0, torch.exp(to_row), (distance == 0).to(dtype)), since_block


def _row_since(since_block, block_sum, block_N) -> torch.Tensor:
    """Log decay from the end of blocks 0 .. 3, and from the chunk's start (last), to the row: [N, H, 5, K].

    Entries of blocks that are not earlier than the row's are not used.
    """
    number = torch.arange(BLOCKS, device=block_N.device)
    shape = block_sum.shape
    backwards = (block_N[:, None] - number).clamp_min(0)[:, None, :, None].expand(shape)
    whole = block_sum.gather(2, backwards) * (number > 0)[:, None]
    sums = running_sum(whole, 2)
    wanted = torch.cat([(block_N[:, None] - 1 - number).clamp_min(0), block_N[:, None]], dim=1)
    between = sums.gather(2, wanted[:, None, :, None].expand(-1, shape[1], -1, shape[3]))
    return since_block[:, :, None] + between
