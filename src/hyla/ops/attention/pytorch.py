"""Softmax attention over 64-key pages: exact maximum first, then a sum over pages in one fixed tree.

Every (tile, page) pair is a product of the same shape, whatever the batch; a row's scores, maximum and sums read
nothing of the other rows. So a row has one result for every way of tiling, and pages that it does not see add zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.grid import CHUNK
from hyla.ops.attention.pages import PagedKV, scratch_pages
from hyla.ops.attention.plan import AttentionPlan, HeadLayout, TileGroup, WritePlan, attention_plan
from hyla.ops.attention.stretches import backward
from hyla.ops.backends import is_portable, runs_anywhere
from hyla.ops.batch import Batch
from hyla.ops.exact.batched import TINY_SIDE, bmm, bmm_rows
from hyla.ops.exact.sums import row_sum

__all__ = ["attend", "backward", "forward", "tree_sum", "unsupported", "write_rows"]

unsupported = runs_anywhere

COPY_ROWS = 32
"""A single tile of fewer rows is repeated for its pages, and all key heads go into one product."""


@dataclass(frozen=True)
class Attended:
    """Results by query row R = flat row * Hq + head."""

    o_RV: torch.Tensor
    max_R: torch.Tensor
    sum_R: torch.Tensor
    """Maximum of the row's scores, and sum of exp(score - maximum)."""


def forward(q_THK, k_TGK, v_TGV, sinks_H, *, batch: Batch, cache: PagedKV | None, scale: float, value_dim: int, window):
    """o [T, Hq, V] and the statistics m, l [T, Hq]. New rows are written to their pages first."""
    dtype = torch.float64 if q_THK.dtype == torch.float64 else torch.float32
    plan = _plan(q_THK, k_TGK, v_TGV, batch, value_dim, window)
    pages = cache
    if pages is None:
        pages = scratch_pages(k_TGK, v_TGV, plan.num_pages)
        # A masked place still meets a product: what stands there must be a number.
        pages.clear_null_page()
    write_rows(pages, k_TGK, v_TGV, plan.write)
    found = attend((q_THK.to(dtype) * scale).flatten(0, 1), pages, plan, value_dim, sinks_H)
    heads = q_THK.shape[:2]
    return found.o_RV.view(*heads, value_dim), found.max_R.view(heads), found.sum_R.view(heads)


def _plan(q_THK, k_TGK, v_TGV, batch: Batch, value_dim: int, window: int | None) -> AttentionPlan:
    key_dim, heads = k_TGK.shape[2], k_TGK.shape[1]
    layout = HeadLayout(
        num_kv_heads=heads,
        group_heads=q_THK.shape[1] // heads,
        key_dim=key_dim,
        value_dim=value_dim,
        row_counts=_row_counts(key_dim, value_dim, v_TGV is None, q_THK),
        window=window,
    )
    return attention_plan(batch, layout)


def _row_counts(key_dim: int, value_dim: int, values_are_keys: bool, q_THK: torch.Tensor) -> tuple[int, ...]:
    """Row counts that both products may have, so that neither pads its rows again."""
    if q_THK.dtype == torch.float64 or is_portable(q_THK.device):
        return (1,)  # either no promise, or `bmm` fills up its own tiles
    place = (torch.float32, q_THK.device, torch.get_num_threads())
    scores = bmm_rows(key_dim, CHUNK, *place)
    is_narrow = value_dim < TINY_SIDE  # then `bmm` pads the columns
    values = bmm_rows(CHUNK, max(value_dim, TINY_SIDE), *place, values_are_keys and not is_narrow)
    stride = max(scores[-1], values[-1])
    return tuple(count for count in scores if count in values and count < stride) + (stride,)


def write_rows(cache: PagedKV, k_TGK: torch.Tensor, v_TGV: torch.Tensor | None, plan: WritePlan) -> None:
    """Put the new rows at their absolute positions."""
    if plan.single_rows_W.numel():
        rows, pages, places = plan.single_rows_W, plan.single_pages_W, plan.single_places_W
        cache.k_pages[pages, :, :, places] = k_TGK[rows]
        if v_TGV is not None and cache.v_pages is not None:
            cache.v_pages[pages, :, places] = v_TGV[rows]
    if plan.block_pages_I.numel():
        cache.k_pages[plan.block_pages_I] = k_TGK[plan.block_rows_IC].permute(0, 2, 3, 1)
        if v_TGV is not None and cache.v_pages is not None:
            cache.v_pages[plan.block_pages_I] = v_TGV[plan.block_rows_IC].transpose(1, 2)


def attend(
    q_RK: torch.Tensor, cache: PagedKV, plan: AttentionPlan, value_dim: int, sinks_H: torch.Tensor | None = None
) -> Attended:
    """All query rows against their pages. q_RK: [T * Hq, K], scaled, in the dtype of the computation."""
    num_rows = q_RK.shape[0]
    result = Attended(q_RK.new_empty(num_rows, value_dim), q_RK.new_empty(num_rows), q_RK.new_empty(num_rows))
    reader = _PageReader(q_RK.dtype)
    for group in plan.groups:
        o, maximum, total = _attend_group(q_RK, cache, group, value_dim, reader, sinks_H)
        for out, part in ((result.o_RV, o), (result.max_R, maximum), (result.sum_R, total)):
            out[group.rows_R] = part.flatten(0, 2)[group.places_R]
    return result


class _PageReader:
    """Reads pages in the dtype of the computation, through one buffer (fresh memory costs more than the copy)."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.buffer: torch.Tensor | None = None

    def read(self, pages: torch.Tensor, group: TileGroup, first: int, last: int) -> torch.Tensor:
        """Pages [first, last) of every tile as [t * (last - first) * G, ., .]; valid until the next read."""
        if isinstance(group.pages, slice):
            start = group.pages.start
            found = pages[start + first : start + last]
        else:
            found = pages.index_select(0, group.pages[:, first:last].flatten())
        if found.dtype != self.dtype:
            size = found.numel()
            if self.buffer is None or self.buffer.numel() < size:
                self.buffer = torch.empty(size, dtype=self.dtype, device=found.device)
            found = self.buffer[:size].view(found.shape).copy_(found)
        return found.flatten(0, 1)


def _attend_group(q_RK, cache: PagedKV, group: TileGroup, value_dim: int, reader: _PageReader, sinks_H):
    """o [t, G, M, V], maximum and sum [t, G, M] of one group."""
    tiles, rows, heads = group.num_tiles, group.num_rows, cache.k_pages.shape[1]
    q_tGMK = q_RK[group.source_B].view(tiles, heads, rows, -1)
    p = q_tGMK.new_empty(tiles, group.num_pages, heads, rows, CHUNK)
    for first, last in group.steps():
        keys = reader.read(cache.k_pages, group, first, last)
        p[:, first:last] = _scores(q_tGMK, keys)
    p[:, group.first_masked :].masked_fill_(group.mask, float("-inf"))
    maximum, sinks = p.amax((1, 4)), None
    if sinks_H is not None:
        sinks = _sinks_by_place(sinks_H.to(p.dtype), heads, rows)
        maximum = torch.maximum(maximum, sinks)
    p.sub_(maximum[:, None, ..., None]).exp_()
    total = tree_sum(row_sum(p), group.first_page)
    if sinks is not None:
        total = total + (sinks - maximum).exp_()
    parts = []
    for first, last in group.steps():
        if cache.v_pages is not None:
            values = reader.read(cache.v_pages, group, first, last)
        else:
            # In one step, the keys that were just read are still there.
            keys = keys if last - first == group.num_pages else reader.read(cache.k_pages, group, first, last)
            values = keys[:, :value_dim].transpose(1, 2)
        weighted = bmm(p[:, first:last].flatten(0, 2), values)
        by_page = weighted.reshape(tiles, last - first, heads, rows, value_dim)
        parts.append(tree_sum(by_page, group.first_page + first))
    summed = parts[0] if len(parts) == 1 else tree_sum(torch.stack(parts, 1), group.first_page // group.step_pages)
    return summed / total[..., None], maximum, total


def _sinks_by_place(sinks_H: torch.Tensor, heads: int, rows: int) -> torch.Tensor:
    """[G, M]: the sink of the query head at each place of a tile."""
    sinks_GR = sinks_H.view(heads, -1)
    return sinks_GR.repeat(1, -(-rows // sinks_GR.shape[1]))[:, :rows]


def _scores(q_tGMK: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Every tile's rows against each of its c pages: keys [t * c * G, K, 64] -> [t, c, G, M, 64]."""
    tiles, heads, rows, key_dim = q_tGMK.shape
    pages = keys.shape[0] // (tiles * heads)
    if tiles == 1 and rows * heads >= COPY_ROWS:
        # One matrix meets all pages where it lies; repeating it would cost as much as reading the keys.
        by_head = keys.unflatten(0, (pages, heads))
        scores = [bmm(q_tGMK[0, g].expand(pages, -1, -1), by_head[:, g]) for g in range(heads)]
        return (torch.stack(scores, 1) if heads > 1 else scores[0][:, None])[None]
    q = q_tGMK[:, None].expand(-1, pages, -1, -1, -1).reshape(-1, rows, key_dim)
    return bmm(q, keys).view(tiles, pages, heads, rows, CHUNK)


def tree_sum(x_tn: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Sum over dimension 1 in the binary tree over neighbours ((0 + 1) + (2 + 3)) + ...; x is overwritten.

    The items stand at the places first, first + 1, ... of the tree. A missing neighbour is a zero, so zeros before the
    first item and behind the last one change nothing.
    """
    while x_tn.shape[1] > 1:
        if first % 2:
            x_tn = torch.cat([torch.zeros_like(x_tn[:, :1]), x_tn], 1)
        left, right = x_tn[:, 0::2], x_tn[:, 1::2]
        left[:, : right.shape[1]].add_(right)
        x_tn, first = left, first // 2
    return x_tn[:, 0]
