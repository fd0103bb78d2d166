"""A delta rule as the walks see it: what it measures inside chunks, and which rows it keeps of an open one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class DeltaRule:
    """The functions in which the gated delta rule and KDA differ."""

    measure: Callable[..., Any]
    """(q, k, log_decay, beta by item, old rows or None, is_old_OC) -> `delta_chain.Intra`; differentiable."""
    load_rows: Callable[..., dict[str, Any]]
    """(cache, slots) -> the operator's own open rows, for `measure`."""
    store_rows: Callable[..., None]
    """(cache, slot, rows of an item, count): keep an open chunk's rows."""
    append: Callable[..., torch.Tensor]
    """(RowPlan, q, k, v, log_decay, beta, cache) -> outputs of one new row for each sequence."""


@dataclass(frozen=True)
class DeltaOutputs:
    """What a backend's forward pass gives."""

    o_THV: torch.Tensor
    u_IHCV: torch.Tensor | None = None
    """Solved rows of all items, and the anchors that they read; when asked to keep them (autograd)."""
    anchors_IHKV: torch.Tensor | None = None
    final_NHKV: torch.Tensor | None = None
    """The state after each sequence's last row, when asked for."""
