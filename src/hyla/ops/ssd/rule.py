"""The decay of the state space dual: one number for each token and head, its sums kept in float64.

With S the anchor, G_r the sum of log decays from the chunk's start and R = 63:

    o_r = e^{G_r} (S^T q_r) + sum_{j<=r} P_rj v_j      P_rj = e^{G_r - G_j} <q_r, k_j>
    S'  = e^{G_R} S + sum_j k_j (e^{G_R - G_j} v_j)^T

(arXiv 2405.21060, section 6.) Decays multiply outputs and values, not queries and keys: V is the smaller side in
published models, and q and k stay as they are for all heads of a group.
"""

from __future__ import annotations

import torch

from hyla.grid import CHUNK
from hyla.ops.chunks.decay_rule import Fold, OldRows, Read, Rows, key_dots, spread, store_row
from hyla.ops.chunks.decay_sums import append_sum, chunk_sums
from hyla.ops.chunks.plan import RowPlan


class SummedDecay:
    """The rule S <- exp(a_t) S + k v^T."""

    names = ("k_t", "v", "decay_sum")
    constants: tuple[torch.Tensor, ...] = ()

    def rows(self, k_IGCK, v_IHCV, /, *decays: torch.Tensor, old: OldRows | None = None) -> Rows:
        (log_decay_IHC,) = decays
        rows = {"k_t": k_IGCK.transpose(2, 3).contiguous(), "v": v_IHCV}
        if old is None:
            return rows | {"decay_sum": chunk_sums(log_decay_IHC)}
        sums = chunk_sums(log_decay_IHC, old.rows["decay_sum"], old.ranks, old.is_old_OC)
        return old.fill(rows | {"decay_sum": sums})

    def read(self, q_IGRK, /, rows: Rows, row_I: torch.Tensor | None = None) -> Read:
        sums_IHC, heads = rows["decay_sum"], rows["v"].shape[1]
        place = torch.arange(CHUNK, device=sums_IHC.device)
        if row_I is None:
            sums_IHR, is_later = sums_IHC, place[None, :] > place[:, None]
        else:
            sums_IHR = sums_IHC.gather(2, row_I[:, None, None].expand(-1, heads, 1))
            is_later = place > row_I[:, None, None, None]
        between = (sums_IHR[..., :, None] - sums_IHC[..., None, :]).to(q_IGRK.dtype)
        decays = torch.exp(between.masked_fill(is_later, float("-inf")))
        p = spread(key_dots(q_IGRK, rows), heads) * decays
        return Read(p, spread(q_IGRK, heads), torch.exp(sums_IHR.to(q_IGRK.dtype))[..., None])

    def fold(self, rows: Rows, count_I: torch.Tensor | None = None) -> Fold:
        # Rows that are not there have no decay: the sum at the last place is that of the last row, whatever the count.
        sums, v = rows["decay_sum"], rows["v"]
        last = sums[..., -1:]
        v_out = v * torch.exp((last - sums).to(v.dtype))[..., None]
        return Fold(spread(rows["k_t"], v.shape[1]), v_out, torch.exp(last.to(v.dtype))[..., None])

    def append(self, plan: RowPlan, cache, k_NGK, v_NHV, /, *decays: torch.Tensor) -> None:
        (log_decay_NH,) = decays
        store_row(plan, cache, k_NGK, v_NHV)
        append_sum(plan, cache, log_decay_NH)
