"""Absorbed queries and keys, function by function. PyTorch, any device, differentiable, the default."""

from __future__ import annotations

import torch

from hyla.ops.backends import runs_anywhere
from hyla.ops.exact.primitives import rms_norm, sigmoid, wide
from hyla.ops.rotary import rotate

unsupported = runs_anywhere


def forward(q_THR, kv_TR, weight_L, cos_sin_TR, k_up, *, eps: float, interleaved: bool):
    """`absorb` (see `hyla.ops.latent`)."""
    latent_dim, heads = weight_L.shape[0], q_THR.shape[1]
    rope_dim = kv_TR.shape[1] - latent_dim
    q_nope, q_pe = wide(q_THR).split([q_THR.shape[2] - rope_dim, rope_dim], dim=-1)
    latent, k_pe = wide(kv_TR)[:, None].split([latent_dim, rope_dim], dim=-1)
    if cos_sin_TR is not None:
        both = rotate(torch.cat([q_pe, k_pe], dim=1), cos_sin_TR, interleaved=interleaved)
        q_pe, k_pe = both.split([heads, 1], dim=1)
    q_THK = torch.cat([q_nope if k_up is None else k_up.product(q_nope), q_pe], dim=-1)
    return q_THK, torch.cat([rms_norm(latent, weight_L, eps=eps), k_pe], dim=-1).to(kv_TR.dtype)


def head_outputs(o_THL, v_up, gate_TH, dtype: torch.dtype) -> torch.Tensor:
    """`head_outputs` (see `hyla.ops.latent`)."""
    o_THV = o_THL if v_up is None else v_up.product(o_THL)
    if gate_TH is not None:
        o_THV = o_THV * sigmoid(wide(gate_TH))[..., None]
    return o_THV.flatten(1).to(dtype)
