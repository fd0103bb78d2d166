"""A decay that is a constant of the head: lightning attention's, and linear attention's of one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from hyla.grid import CHUNK
from hyla.ops.chunks.decay_rule import Fold, OldRows, Read, Rows, key_dots, store_row
from hyla.ops.chunks.plan import RowPlan

MASKED = CHUNK + 1
"""The column of `decay_table` that is zero."""


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


@dataclass(frozen=True)
class ConstantDecay:
    """The rule S <- exp(-s_h) S + k v^T, by its table [H, 66] of decays."""

    table_HD: torch.Tensor
    names = ("k_t", "v")

    @property
    def constants(self) -> tuple[torch.Tensor, ...]:
        return (self.table_HD,)

    def rows(self, k_IHCK, v_IHCV, /, *decays: torch.Tensor, old: OldRows | None = None) -> Rows:
        rows = {"k_t": k_IHCK.transpose(2, 3).contiguous(), "v": v_IHCV}
        return rows if old is None else old.fill(rows)

    def read(self, q_IHRK, /, rows: Rows, row_I: torch.Tensor | None = None) -> Read:
        dots, table = key_dots(q_IHRK, rows), self.table_HD
        if row_I is None:
            place = torch.arange(CHUNK, device=table.device)
            return Read(dots * table[:, _distances(place)], q_IHRK * table[:, place + 1, None])
        # [H, I, ...] as the table has it, against [I, H, 1, ...].
        decays = table[:, _distances(row_I)].transpose(0, 1)[:, :, None]
        return Read(dots * decays, q_IHRK * table[:, row_I + 1].t()[..., None, None])

    def fold(self, rows: Rows, count_I: torch.Tensor | None = None) -> Fold:
        table = self.table_HD
        place = torch.arange(CHUNK, device=table.device)
        if count_I is None:
            k = rows["k_t"] * table[:, None, CHUNK - 1 - place]
            return Fold(k, rows["v"], table[None, :, CHUNK, None, None])
        # An open chunk ends at its last row: what comes after does not decay it.
        k = rows["k_t"] * table[:, _distances(count_I - 1)].transpose(0, 1)[:, :, None]
        return Fold(k, rows["v"], table[:, count_I].t()[..., None, None])

    def append(self, plan: RowPlan, cache, k_NHK, v_NHV, /, *decays: torch.Tensor) -> None:
        store_row(plan, cache, k_NHK, v_NHV)


def _distances(row_N: torch.Tensor) -> torch.Tensor:
    """int64 [N, 64]: distance from each row's place in the chunk back to every place; MASKED for later places."""
    distance = row_N[:, None] - torch.arange(CHUNK, device=row_N.device)
    return torch.where(distance < 0, MASKED, distance)
