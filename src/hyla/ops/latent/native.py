"""The same by the CPU's own kernels, each of which writes its part of the queries, keys and outputs in place."""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.native import kernels, latents
from hyla.ops.native.launching import empty

unsupported = native.unsupported


def forward(q_THR, kv_TR, weight_L, cos_sin_TR, k_up, *, eps: float, interleaved: bool):
    """`absorb` (see `hyla.ops.latent`)."""
    latent_dim, (tokens, heads, query_dim) = weight_L.shape[0], q_THR.shape
    rope_dim, kv_T1R = kv_TR.shape[1] - latent_dim, kv_TR[:, None]
    nope_dim = query_dim - rope_dim
    first_dim = nope_dim if k_up is None else latent_dim
    q_THK = empty((tokens, heads, first_dim + rope_dim), torch.float32)
    k_T1K = empty((tokens, 1, latent_dim + rope_dim), kv_TR.dtype)
    q_nope = q_THR[:, :, :nope_dim]
    if k_up is None:
        _written(q_nope, q_THK[:, :, :nope_dim])
    else:
        if q_nope.dtype != torch.float32:
            q_nope = _written(q_nope, empty(q_nope.shape, torch.float32))
        k_up.product(q_nope, out=q_THK[:, :, :latent_dim])
    _written(kv_T1R[:, :, :latent_dim], k_T1K[:, :, :latent_dim], weight_L, eps)
    if rope_dim:
        rotation = {"cos_sin_TR": cos_sin_TR, "interleaved": interleaved}
        _written(q_THR[:, :, nope_dim:], q_THK[:, :, first_dim:], **rotation)
        _written(kv_T1R[:, :, latent_dim:], k_T1K[:, :, latent_dim:], **rotation)
    return q_THK, k_T1K


def head_outputs(o_THL, v_up, gate_TH, dtype: torch.dtype) -> torch.Tensor:
    """`head_outputs` (see `hyla.ops.latent`)."""
    o_THV = o_THL if v_up is None else v_up.product(o_THL)
    if gate_TH is None and dtype == torch.float32:
        return o_THV.flatten(1)
    return latents.gate_heads(o_THV, gate_TH, dtype).flatten(1)


def _written(x_THK, out_THK, weight_K=None, eps=None, cos_sin_TR=None, interleaved: bool = False) -> torch.Tensor:
    """out, with x normed where there is an eps and rotated where there is a table."""
    kernels.norm_and_rotate(
        x_THK, weight_K, eps, cos_sin_TR, shift=0.0, interleaved=interleaved, dtype=out_THK.dtype, out=out_THK
    )
    return out_THK
