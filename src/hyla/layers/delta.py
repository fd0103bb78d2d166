"""What the delta-rule mixers share: the convolved queries, keys and values, and what they cache."""

from __future__ import annotations

import torch

from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops.exact import primitives
from hyla.ops.short_conv import RING, short_conv
from hyla.ops.slots import SlotTensors


def convolved_heads(qkv_TC, conv_weight_CL, *, batch, cache, key_heads: int, key_dim: int, value_heads: int):
    """q, k [T, Hk, K] (unit length) and v [T, Hv, V] after the short convolution and SiLU, in fp32."""
    mixed_TC = primitives.silu(cached_conv(qkv_TC, conv_weight_CL, batch=batch, cache=cache))
    width = key_heads * key_dim
    q, k, v = mixed_TC.split([width, width, mixed_TC.shape[1] - 2 * width], dim=-1)
    q_THK = primitives.l2_norm(q.unflatten(-1, (key_heads, key_dim)))
    k_THK = primitives.l2_norm(k.unflatten(-1, (key_heads, key_dim)))
    return q_THK, k_THK, v.unflatten(-1, (value_heads, -1)).contiguous()


def cached_conv(x_TC, conv_weight_CL, *, batch, cache) -> torch.Tensor:
    """The short convolution [T, C] with the ring and the tail of a `delta_cache_spec`."""
    if cache is None:
        return short_conv(x_TC, conv_weight_CL, batch=batch, cache=None)
    return short_conv(x_TC, conv_weight_CL, batch=batch, cache=cache["conv"], tail=cache["conv_tail"])


def delta_cache_spec(tensors: SlotTensors, conv_weight_CL: torch.Tensor) -> CacheSpec:
    """The operator's slot tensors, the convolution's ring and its tail."""
    slots = [TensorSpec(name, shape, kind, role) for name, shape, kind, role in tensors]
    (channels, taps), dtype = conv_weight_CL.shape, conv_weight_CL.dtype
    conv = (
        TensorSpec("conv", (RING, channels), dtype, "conv"),
        TensorSpec("conv_tail", (taps - 1, channels), dtype, "tail"),
    )
    return CacheSpec(slot_tensors=(*slots, *conv))
