"""What the delta-rule mixers share: the convolved queries, keys and values, and how their gates start."""

from __future__ import annotations

import math

import torch
from torch import nn

from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops import primitives
from hyla.ops.short_conv import RING, short_conv


def convolved_heads(qkv_TC, conv_weight_CL, *, batch, cache, key_heads: int, key_dim: int, value_heads: int):
    """q, k [T, Hk, K] (unit length) and v [T, Hv, V] after the short convolution and SiLU, in fp32."""
    ring = None if cache is None else cache["conv"]
    mixed_TC = primitives.silu(short_conv(qkv_TC, conv_weight_CL, batch=batch, cache=ring))
    width = key_heads * key_dim
    q, k, v = mixed_TC.split([width, width, mixed_TC.shape[1] - 2 * width], dim=-1)
    q_THK = primitives.l2_norm(q.unflatten(-1, (key_heads, key_dim)))
    k_THK = primitives.l2_norm(k.unflatten(-1, (key_heads, key_dim)))
    return q_THK, k_THK, v.unflatten(-1, (value_heads, -1)).contiguous()


def delta_cache_spec(tensors, channels: int, dtype: torch.dtype) -> CacheSpec:
    """The operator's slot tensors and the convolution's ring."""
    slots = [TensorSpec(name, shape, kind, role) for name, shape, kind, role in tensors]
    return CacheSpec(slot_tensors=(*slots, TensorSpec("conv", (RING, channels), dtype, "conv")))


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
