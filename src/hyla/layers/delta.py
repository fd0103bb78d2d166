"""What the delta-rule mixers share: the convolved queries, keys and values, and what they cache."""

from __future__ import annotations

import torch

from hyla.layers.carry import Carry, convolve
from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops.short_conv import RING, short_conv
from hyla.ops.short_conv.heads import conv_heads, silu_heads
from hyla.ops.slots import SlotTensors


def convolved_heads(qkv_TC, conv_weight_CL, *, batch, cache, key_heads: int, key_dim: int, value_heads: int):
    """q, k [T, Hk, K] (unit length, q over sqrt(K)) and v [T, Hv, V] after the short convolution and SiLU, in fp32."""
    if isinstance(cache, Carry):
        mixed_TC = cached_conv(qkv_TC, conv_weight_CL, batch=batch, cache=cache)
        return silu_heads(mixed_TC, key_heads=key_heads, key_dim=key_dim, value_heads=value_heads, scale=key_dim**-0.5)
    ring, tail = (None, None) if cache is None else (cache["conv"], cache["conv_tail"])
    sizes = {"key_heads": key_heads, "key_dim": key_dim, "value_heads": value_heads}
    return conv_heads(qkv_TC, conv_weight_CL, batch=batch, cache=ring, tail=tail, scale=key_dim**-0.5, **sizes)


def cached_conv(x_TC, conv_weight_CL, *, batch, cache) -> torch.Tensor:
    """The short convolution [T, C] with the ring and the tail of a `delta_cache_spec`, or with what a carry has."""
    if isinstance(cache, Carry):
        return convolve(short_conv, x_TC, conv_weight_CL, batch=batch, carry=cache)
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
