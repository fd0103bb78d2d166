"""Attention of every row over its own gathered keys, in blocks of 64 of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from hyla.grid import CHUNK
from hyla.ops.attention.pytorch import tree_sum
from hyla.ops.backends import runs_anywhere
from hyla.ops.batch import Batch
from hyla.ops.exact.batched import bmm
from hyla.ops.exact.sums import row_sum
from hyla.ops.sparse.selection import Selection

unsupported = runs_anywhere

STEP_BYTES = 1 << 24
"""Size of the keys that are gathered at a time."""


class Keys(Protocol):
    """Where selected keys are read from."""

    key_dim: int

    def gather(self, rows_L: torch.Tensor, positions_LS: torch.Tensor) -> torch.Tensor:
        """[L, S, K], as stored: keys at positions of the sequences of the given flat rows."""
        ...


class FlatKeys:
    """Keys of whole sequences, [T, K] by flat row."""

    def __init__(self, k_TK: torch.Tensor, batch: Batch):
        self.k_TK, self.key_dim = k_TK, k_TK.shape[1]
        offsets = [offset for offset, length in zip(batch.offsets, batch.lengths) for _ in range(length)]
        self._offset_T = batch.index(offsets)

    def rows(self, rows_L: torch.Tensor, positions_LS: torch.Tensor) -> torch.Tensor:
        """Flat rows of positions."""
        return self._offset_T[rows_L][:, None] + positions_LS

    def gather(self, rows_L: torch.Tensor, positions_LS: torch.Tensor) -> torch.Tensor:
        return self.k_TK[self.rows(rows_L, positions_LS)]


class PagedKeys:
    """Keys in pages [P, K, 64]."""

    def __init__(self, pages_PKC: torch.Tensor, batch: Batch):
        self.pages_PKC, self.key_dim = pages_PKC, pages_PKC.shape[1]
        tables = batch.cached_pages
        longest = max(len(pages) for pages in tables)
        self._table_NX = batch.index([list(pages) + [0] * (longest - len(pages)) for pages in tables])
        self._sequence_T = batch.index([n for n, length in enumerate(batch.lengths) for _ in range(length)])

    def gather(self, rows_L: torch.Tensor, positions_LS: torch.Tensor) -> torch.Tensor:
        pages_LS = self._table_NX[self._sequence_T[rows_L]].gather(1, positions_LS // CHUNK)
        return self.pages_PKC[pages_LS, :, positions_LS % CHUNK]


@dataclass(frozen=True)
class SelectedResult:
    """Outputs, and each row's largest score and sum of exp(score - largest)."""

    o_THV: torch.Tensor
    max_TH: torch.Tensor
    sum_TH: torch.Tensor


def forward(q_THK: torch.Tensor, keys: Keys, selection: Selection, scale: float, value_dim: int) -> SelectedResult:
    """Attention of all rows over their selected keys, some rows at a time."""
    q_THK = (q_THK if q_THK.dtype == torch.float64 else q_THK.float()) * scale
    tokens, heads = q_THK.shape[:2]
    o_THV = q_THK.new_empty(tokens, heads, value_dim)
    max_TH, sum_TH = q_THK.new_empty(tokens, heads), q_THK.new_empty(tokens, heads)
    for rows_L, positions_LS in steps(selection, keys.key_dim * q_THK.element_size()):
        q_LHK = q_THK[rows_L]
        p, keys_LSK = scores(q_LHK, keys, rows_L, positions_LS)
        maximum = p.amax((1, 3))
        p.sub_(maximum[:, None, :, None]).exp_()
        total = tree_sum(row_sum(p))
        # All channels of the keys, and not the values among them: that would be a copy.
        weighted = bmm(p.flatten(0, 1), keys_LSK.view(-1, CHUNK, keys.key_dim)).view(*p.shape[:3], -1)
        o_THV[rows_L] = tree_sum(weighted[..., :value_dim]) / total[..., None]
        max_TH[rows_L], sum_TH[rows_L] = maximum, total
    return SelectedResult(o_THV, max_TH, sum_TH)


def steps(
    selection: Selection, bytes_per_key: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Flat rows with like numbers of blocks, and their positions [L, n * 64] (int64, -1 in spare places).

    rows: flat rows to take, in order; None: all.
    """
    blocks = [-(-count // CHUNK) for count in selection.counts]
    order = sorted(range(len(blocks)) if rows is None else rows, key=blocks.__getitem__)
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * blocks[order[last]] * CHUNK * bytes_per_key <= STEP_BYTES:
            last += 1
        rows_L = torch.tensor(order[first:last], device=selection.positions_TS.device)
        yield rows_L, selection.positions_TS[rows_L, : blocks[order[last - 1]] * CHUNK].long()
        first = last


def scores(q_LHK: torch.Tensor, keys: Keys, rows_L: torch.Tensor, positions_LS: torch.Tensor):
    """Scores [L, n, H, 64] of scaled queries, minus infinity in spare places, and the keys [L, n * 64, K]."""
    rows, heads, key_dim = q_LHK.shape
    keys_LSK = keys.gather(rows_L, positions_LS.clamp_min(0)).to(q_LHK.dtype).contiguous()
    keys_BCK = keys_LSK.view(-1, CHUNK, key_dim)
    q_BHK = q_LHK.repeat_interleave(positions_LS.shape[1] // CHUNK, dim=0)
    found = bmm(q_BHK, keys_BCK.transpose(1, 2)).view(rows, -1, heads, CHUNK)
    is_spare = (positions_LS < 0).view(rows, -1, 1, CHUNK)
    return found.masked_fill_(is_spare, -torch.inf), keys_LSK
