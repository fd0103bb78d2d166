"""Sums whose result for a row never depends on the other rows: by the library where it is known, portable elsewhere."""

from __future__ import annotations

import torch

from hyla.ops import backends
from hyla.ops.exact import portable

SUM_BLOCK = 4096
"""Widest row that is summed in one library call; wider rows are sums of such blocks."""


def sum_last(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, which is kept: [.., W] -> [.., 1], of any width. Differentiable."""
    if backends.is_portable(x.device):
        return portable.sum_last(x)
    x = x.contiguous()
    if x.shape[-1] <= SUM_BLOCK:
        return x.sum(-1, keepdim=True)
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % SUM_BLOCK))
    return sum_last(x.unflatten(-1, (-1, SUM_BLOCK)).sum(-1))


def row_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, which goes: [.., W] -> [..], W up to SUM_BLOCK, x as it lies. Differentiable."""
    return portable.sum_last(x)[..., 0] if backends.is_portable(x.device) else x.sum(-1)


def running_sum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Sums from the start of a dimension up to each place, added in order, as an appended row does. Differentiable."""
    return portable.running_sum(x, dim) if backends.is_portable(x.device) else x.cumsum(dim)
