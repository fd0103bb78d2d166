"""Absorbed queries and keys, head by head: the truth that other forms are compared with."""

from __future__ import annotations

import torch

from hyla.ops.rotary.reference import norm_and_rotate_reference


def absorb_reference(q_THR, kv_TR, weight_L, cos_sin_TR, k_up_HLN, *, eps, interleaved=False):
    """What `hyla.ops.latent.absorb` does, in the inputs' dtype (give float64). k_up: [H, L, nope]."""
    latent_dim, nope_dim = weight_L.shape[0], k_up_HLN.shape[2]

    def rotated(x_THK):
        return norm_and_rotate_reference(x_THK, None, cos_sin_TR, eps=None, interleaved=interleaved)

    latent = norm_and_rotate_reference(kv_TR[:, None, :latent_dim], weight_L, None, eps=eps)
    absorbed = [q_TR[:, :nope_dim] @ k_up_LN.t() for q_TR, k_up_LN in zip(q_THR.unbind(1), k_up_HLN)]
    q_THK = torch.cat([torch.stack(absorbed, 1), rotated(q_THR[:, :, nope_dim:])], -1)
    return q_THK, torch.cat([latent, rotated(kv_TR[:, None, latent_dim:])], -1)
