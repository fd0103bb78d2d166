"""What the delta-rule mixers share: the convolved queries, keys and values, and what they cache."""

from __future__ import annotations

import torch

from hyla.layers.carry import Carry, convolve
from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops.exact import primitives
from hyla.ops.exact.mixers import in_floats
from hyla.ops.short_conv import RING, short_conv
from hyla.ops.short_conv.heads import EPS, conv_heads, silu_heads
from hyla.ops.slots import SlotTensors


def convolved_heads(qkv_TC, conv_weight_CL, *, batch, cache, key_heads: int, key_dim: int, value_heads: int):
    """q, k [T, Hk, K] (unit length, q over sqrt(K)) and v [T, Hv, V] after the short convolution and SiLU, in fp32.

    conv_weight: None: SiLU alone.
    """
    if conv_weight_CL is None:
        return _heads(qkv_TC, key_heads=key_heads, key_dim=key_dim, value_heads=value_heads)
    if isinstance(cache, Carry):
        mixed_TC = cached_conv(qkv_TC, conv_weight_CL, batch=batch, cache=cache)
        return silu_heads(mixed_TC, key_heads=key_heads, key_dim=key_dim, value_heads=value_heads, scale=key_dim**-0.5)
    ring, tail = (None, None) if cache is None else (cache["conv"], cache["conv_tail"])
    sizes = {"key_heads": key_heads, "key_dim": key_dim, "value_heads": value_heads}
    return conv_heads(qkv_TC, conv_weight_CL, batch=batch, cache=ring, tail=tail, scale=key_dim**-0.5, **sizes)


def _heads(qkv_TC, *, key_heads: int, key_dim: int, value_heads: int):
    width = key_heads * key_dim
    q, k, v = qkv_TC.split([width, width, qkv_TC.shape[1] - 2 * width], dim=-1)
    # Each part apart: kernels then write dense rows, and nothing is copied between them.
    q_THK, k_THK, v_THV = (
        in_floats(x, "silu").unflatten(-1, (heads, -1))
        for x, heads in ((q, key_heads), (k, key_heads), (v, value_heads))
    )
    q_THK, k_THK = (primitives.l2_norm(x_THK, eps=EPS) for x_THK in (q_THK, k_THK))
    return primitives.scaled(q_THK, key_dim**-0.5, q_THK.dtype), k_THK, v_THV


def cached_conv(x_TC, conv_weight_CL, *, batch, cache) -> torch.Tensor:
    """The short convolution [T, C] with the ring and the tail of a `delta_cache_spec`, or with what a carry has.

    conv_weight: None: the rows as they are, in fp32 (float64 for float64).
    """
    if conv_weight_CL is None:
        return in_floats(x_TC)
    if isinstance(cache, Carry):
        return convolve(short_conv, x_TC, conv_weight_CL, batch=batch, carry=cache)
    if cache is None:
        return short_conv(x_TC, conv_weight_CL, batch=batch, cache=None)
    return short_conv(x_TC, conv_weight_CL, batch=batch, cache=cache["conv"], tail=cache["conv_tail"])


def delta_cache_spec(tensors: SlotTensors, conv_weight_CL: torch.Tensor | None) -> CacheSpec:
    """The operator's slot tensors, and with a convolution its ring and its tail."""
    slots = [TensorSpec(name, shape, kind, role) for name, shape, kind, role in tensors]
    if conv_weight_CL is None:
        return CacheSpec(slot_tensors=tuple(slots))
    (channels, taps), dtype = conv_weight_CL.shape, conv_weight_CL.dtype
    conv = (
        TensorSpec("conv", (RING, channels), dtype, "conv"),
        TensorSpec("conv_tail", (taps - 1, channels), dtype, "tail"),
    )
    return CacheSpec(slot_tensors=(*slots, *conv))


def operators(rule: str, conv_len: int) -> tuple[str, ...]:
    """The folders of `hyla.ops` of a mixer with a short convolution before its rule, or without one."""
    return (rule, "short_conv") if conv_len else (rule,)


def no_decay(like: torch.Tensor) -> torch.Tensor:
    """Log decays of zero in the shape of fp32 (float64) rows; by a kernel, which a recorded step can make again."""
    return primitives.scaled(like.detach(), 0.0, like.dtype)
