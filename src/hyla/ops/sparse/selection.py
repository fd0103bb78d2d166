"""The lightning indexer: scores of every row over its pages, and the exact choice of keys.

Scores are products of one shape per page of 64 positions, heads are added in one fixed tree, and a stable sort breaks
ties toward the lower position: what a row selects depends on its own query and on the keys up to it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.grid import CHUNK
from hyla.ops.attention.plan import AttentionPlan, TileGroup
from hyla.ops.attention.pytorch import tree_sum
from hyla.ops.batch import Batch
from hyla.ops.exact.batched import bmm


@dataclass(frozen=True)
class Selection:
    """Which keys each row of a batch attends to."""

    positions_TS: torch.Tensor
    """int32 [T, S]: positions in ascending order, then -1; S is a multiple of 64."""
    counts: tuple[int, ...]
    """Keys of each row."""


def select_rows(
    q_RI: torch.Tensor,
    weights_R: torch.Tensor,
    pages_PIC: torch.Tensor,
    plan: AttentionPlan,
    batch: Batch,
    num_selected: int,
) -> Selection:
    """Query rows R = flat row * H + head, scaled, against the written pages."""
    starts = zip(batch.starts, batch.ends)
    counts = tuple(min(position + 1, num_selected) for start, end in starts for position in range(start, end))
    width = -(-max(counts) // CHUNK) * CHUNK
    positions_TS = torch.full((len(counts), width), -1, dtype=torch.int32, device=q_RI.device)
    heads = q_RI.shape[0] // len(counts)
    counts_T = batch.index(counts)
    for group in plan.groups:
        scores_LX, rows_L = _group_scores(q_RI, weights_R, pages_PIC, group, heads)
        chosen_LS = _largest(scores_LX, counts_T[rows_L], width)
        positions_TS[rows_L, : chosen_LS.shape[1]] = chosen_LS.int()
    return Selection(positions_TS, counts)


def _group_scores(q_RI, weights_R, pages_PIC, group: TileGroup, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [L, n * 64] over a group's pages, minus infinity ahead of a row, and the flat row of each; a row may
    stand there more than once, with the same scores."""
    tiles, positions = group.num_tiles, group.num_rows // heads
    used = positions * heads
    source_tM = group.source_B.view(tiles, group.num_rows)
    q_tMI, weights_tM1 = q_RI[source_tM], weights_R[source_tM][:, :used, None]
    scores = q_RI.new_empty(tiles, positions, group.num_pages, CHUNK)
    for first, last in group.steps():
        found = _products(q_tMI, pages_PIC, group, first, last)[:, :, :used]
        weighed = found.clamp_min(0.0).mul_(weights_tM1[:, None]).unflatten(2, (positions, heads))
        summed_bpC = tree_sum(weighed.flatten(0, 1).transpose(1, 2))
        scores[:, :, first:last] = summed_bpC.unflatten(0, (tiles, last - first)).transpose(1, 2)
    mask = group.mask[:, :, 0, :used].unflatten(2, (positions, heads))[:, :, :, 0]
    scores[:, :, group.first_masked :].masked_fill_(mask.transpose(1, 2), -torch.inf)
    rows_L = source_tM[:, :used:heads].flatten() // heads
    return scores.flatten(2).flatten(0, 1), rows_L


def _products(q_tMI, pages_PIC, group: TileGroup, first: int, last: int) -> torch.Tensor:
    """Rows against pages [first, last) of their tiles: [t, c, M, 64]."""
    if isinstance(group.pages, slice):
        keys_BIC = pages_PIC[group.pages.start + first : group.pages.start + last]
    else:
        keys_BIC = pages_PIC[group.pages[:, first:last].flatten()]
    q_tcMI = q_tMI[:, None].expand(-1, last - first, -1, -1)
    return bmm(q_tcMI.flatten(0, 1), keys_BIC.to(q_tMI.dtype)).unflatten(0, q_tcMI.shape[:2])


def _largest(scores_LX: torch.Tensor, counts_L: torch.Tensor, width: int) -> torch.Tensor:
    """Places of each row's counts_L (<= width) largest scores in ascending order, then -1; ties go to the lower one."""
    order_LX = scores_LX.sort(dim=-1, descending=True, stable=True)[1][:, :width]
    places = scores_LX.shape[1]
    rank = torch.arange(order_LX.shape[1], device=scores_LX.device)
    chosen = order_LX.masked_fill(rank >= counts_L[:, None], places).sort(dim=-1)[0]
    return chosen.masked_fill_(chosen == places, -1)
