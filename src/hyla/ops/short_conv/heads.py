"""The short convolution of a delta rule with what follows it: SiLU, and unit length of queries and keys."""

from __future__ import annotations

import torch

from hyla.ops.backends import uses_native
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.native import kernels
from hyla.ops.short_conv import short_conv
from hyla.ops.short_conv.gradient import ConvHeads
from hyla.ops.short_conv.native import as_stored

EPS = 1e-6
"""Of the squared length."""


def conv_heads(
    x_TC: torch.Tensor,
    weight_CL: torch.Tensor,
    *,
    batch: Batch,
    cache: torch.Tensor | None,
    tail: torch.Tensor | None,
    key_heads: int,
    key_dim: int,
    value_heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q and k [T, Hk, K] of unit length, q times scale, and v [T, Hv, V], in fp32 (float64 for float64), dense.

    x_TC: the channels of q, k and v beside one another. The rest as for `short_conv`, of which this is the composition
    with the primitives; where the CPU's kernels compute it is one pass over the rows, with the same bits.
    """
    shape = {"key_heads": key_heads, "key_dim": key_dim, "value_heads": value_heads}
    is_differentiable = torch.is_grad_enabled() and (x_TC.requires_grad or weight_CL.requires_grad)
    is_whole = cache is not None or not any(batch.starts)
    if is_whole and key_dim <= kernels.WIDEST_HEAD and uses_native(x_TC):
        sizes = {**shape, "eps": EPS, "scale": scale}
        if not is_differentiable:
            kept = (cache, None if cache is None else tail)
            return kernels.conv_heads(x_TC, as_stored(weight_CL), batch.spans_4N, *kept, **sizes)
        if cache is None:
            return ConvHeads.apply(x_TC, weight_CL, batch.spans_4N, sizes)
    convolved_TC = short_conv(x_TC, weight_CL, batch=batch, cache=cache, tail=tail)
    return silu_heads(convolved_TC, scale=scale, **shape)


def silu_heads(
    convolved_TC: torch.Tensor, *, key_heads: int, key_dim: int, value_heads: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `conv_heads` makes of the convolution's outputs."""
    mixed_TC = primitives.silu(convolved_TC)
    width = key_heads * key_dim
    q, k, v = mixed_TC.split([width, width, mixed_TC.shape[1] - 2 * width], dim=-1)
    q_THK, k_THK = (primitives.l2_norm(x.unflatten(-1, (key_heads, key_dim)), eps=EPS) for x in (q, k))
    return q_THK * scale, k_THK, v.unflatten(-1, (value_heads, -1)).contiguous()
