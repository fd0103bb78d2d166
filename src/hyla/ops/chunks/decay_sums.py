"""Log decays of a head, summed from the chunk's start: for the operators with a scalar decay that depends on the token.

The sums are float64, so that the difference of two costs no accuracy: a decay between two rows is exp(G_r - G_j).
"""

from __future__ import annotations

import torch

from hyla.ops.chunks.plan import RowPlan
from hyla.ops.exact.sums import running_sum


def chunk_sums(
    log_decay_IHC: torch.Tensor,
    old_OHC: torch.Tensor | None = None,
    ranks: list[int] | None = None,
    is_old_OC: torch.Tensor | None = None,
) -> torch.Tensor:
    """float64 [I, H, 64]. old: the sums that the open chunks of some ranks have already, at the places in is_old."""
    decay = log_decay_IHC.double()
    if old_OHC is None or is_old_OC is None:
        return running_sum(decay, 2)
    is_old = is_old_OC[:, None]
    last_old = is_old & ~torch.nn.functional.pad(is_old[..., 1:], (0, 1))
    # The last old row stands for all before it, whose places are zero: the new rows' sums go on from its own.
    decay = decay.clone()
    decay[ranks] = torch.where(last_old, old_OHC, decay[ranks])
    sums = running_sum(decay, 2)
    sums[ranks] = torch.where(is_old, old_OHC, sums[ranks])
    return sums


def append_sum(plan: RowPlan, cache, log_decay_NH: torch.Tensor) -> torch.Tensor:
    """The new rows' sums, float64 [N, H], from the ones before; stored."""
    before = cache["decay_sum"][plan.slots_N, :, (plan.row_N - 1).clamp_min(0)]
    total = torch.where(plan.row_N[:, None] > 0, before + log_decay_NH.double(), log_decay_NH.double())
    cache["decay_sum"][plan.slots_N, :, plan.row_N] = total
    return total
