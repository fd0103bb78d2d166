"""What the delta-rule mixers share: the convolved queries, keys and values, and how their gates start."""

from __future__ import annotations

import math

import torch
from torch import nn

from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops.exact import primitives
from hyla.ops.short_conv import RING, short_conv


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


def delta_cache_spec(tensors, conv_weight_CL: torch.Tensor) -> CacheSpec:
    """The operator's slot tensors, the convolution's ring and its tail."""
    slots = [TensorSpec(name, shape, kind, role) for name, shape, kind, role in tensors]
    (channels, taps), dtype = conv_weight_CL.shape, conv_weight_CL.dtype
    conv = (
        TensorSpec("conv", (RING, channels), dtype, "conv"),
        TensorSpec("conv_tail", (taps - 1, channels), dtype, "tail"),
    )
    return CacheSpec(slot_tensors=(*slots, *conv))


def start_decay(A_log: nn.Parameter, dt_bias: nn.Parameter, generator: torch.Generator) -> None:
    """A uniform in [1, 16]; dt log-uniform in [1e-3, 0.1], as dt_bias = softplus^-1(dt) (arXiv 2312.00752, 3.6)."""
    with torch.no_grad():
        A_log.uniform_(1.0, 16.0, generator=generator).log_()
        dt = dt_bias.uniform_(math.log(1e-3), math.log(0.1), generator=generator).exp_()
        dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))


def start_conv(conv_weight_CL: nn.Parameter, generator: torch.Generator) -> None:
    """Uniform within 1 / sqrt(L), as a depthwise convolution starts in PyTorch."""
    bound = conv_weight_CL.shape[1] ** -0.5
    nn.init.uniform_(conv_weight_CL, -bound, bound, generator=generator)
