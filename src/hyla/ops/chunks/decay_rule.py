"""A linear attention without a solve as the walks see it: what a row keeps, what it reads, how a chunk is folded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from hyla.grid import CHUNK
from hyla.ops.chunks.plan import RowPlan
from hyla.ops.exact.batched import bmm

Rows = dict[str, torch.Tensor]
"""What chunks keep of their rows, by cache name: "k_t" [I, G, K, 64], "v" [I, H, 64, V], and what a rule adds, with the
64 places in dimension 2."""


@dataclass
class Read:
    """How R rows of I chunks read. Queries carry the output scale already."""

    p_IHRC: torch.Tensor
    """query-key products with decay; zero for places after the row's own."""
    q_IHRK: torch.Tensor
    """queries that meet the anchor."""
    since_IHR1: torch.Tensor | None = None
    """Decay from the chunk's start to the row, on what is read from the anchor; None: it is in q already."""


@dataclass
class Fold:
    """How I chunks enter their next anchors, decay * S + k v. A row's decay to the chunk's end stands on k or on v."""

    k_IHKC: torch.Tensor
    v_IHCV: torch.Tensor
    decay: torch.Tensor
    """of the anchor over the whole chunk, [I or 1, H, K or 1, 1]."""


@dataclass
class OldRows:
    """Rows of open chunks that are already in the cache, for the first items of O ranks."""

    ranks: list[int]
    is_old_OC: torch.Tensor
    rows: Rows

    def fill(self, rows: Rows) -> Rows:
        """Put them in their places; a stored row is never computed again. Mutates rows."""
        for name, stored in self.rows.items():
            is_old = self.is_old_OC.view(-1, 1, 1, CHUNK) if name == "k_t" else self.is_old_OC[:, None]
            if name != "k_t":
                is_old = is_old.view(*is_old.shape, *[1] * (stored.dim() - 3))
            rows[name][self.ranks] = torch.where(is_old, stored, rows[name][self.ranks])
        return rows


class DecayRule(Protocol):
    """What lightning, linear attention and the state space dual differ in. All but `append` is differentiable."""

    @property
    def names(self) -> tuple[str, ...]:
        """Cache tensors of the open rows."""
        ...

    @property
    def constants(self) -> tuple[torch.Tensor, ...]:
        """Decays that are no input: of heads, not of rows."""
        ...

    def rows(
        self, k_IGCK: torch.Tensor, v_IHCV: torch.Tensor, /, *decays: torch.Tensor, old: OldRows | None = None
    ) -> Rows:
        """The rows of whole chunks; `old`: those of the first items that the cache has."""
        ...

    def read(self, q_IGRK: torch.Tensor, /, rows: Rows, row_I: torch.Tensor | None = None) -> Read:
        """row_I: the place of the one row of each chunk that reads (R = 1); None: all 64 do."""
        ...

    def fold(self, rows: Rows, count_I: torch.Tensor | None = None) -> Fold:
        """count_I: rows of each chunk that exist, the others are zeros and do not decay; None: all 64."""
        ...

    def append(self, plan: RowPlan, cache, k_NGK: torch.Tensor, v_NHV: torch.Tensor, /, *decays: torch.Tensor) -> None:
        """Store one new row of each sequence."""
        ...


def store_row(plan: RowPlan, cache, k_NGK: torch.Tensor, v_NHV: torch.Tensor) -> None:
    """Put new keys and values in their places of the open chunks."""
    cache["k_t"][plan.slots_N, :, :, plan.row_N] = k_NGK
    cache["v"][plan.slots_N, :, plan.row_N] = v_NHV


def key_dots(q_IGRK: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Products [I, G, R, 64] of queries with all keys of their chunks."""
    items, groups, count = q_IGRK.shape[:3]
    return bmm(q_IGRK.flatten(0, 1), rows["k_t"].flatten(0, 1)).view(items, groups, count, CHUNK)


def spread(x_IG: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat groups so that head h reads group h // (H / G)."""
    repeats = heads // x_IG.shape[1]
    return x_IG if repeats == 1 else x_IG.repeat_interleave(repeats, dim=1)
