"""Gated linear attention, token by token (arXiv 2312.06635, eq. 3): the truth that other backends are compared with."""

from __future__ import annotations

import torch


def gla_reference(q_THK, k_THK, v_THV, log_decay_THK, *, lengths, scale, state_NHKV=None):
    """Outputs [T, H, V] and final states [N, H, K, V], in the inputs' dtype.

    S <- diag(exp(a_t)) S + k_t v_t^T;  o_t = scale S^T q_t. lengths: tokens of each sequence.
    """
    outputs, states, t = [], [], 0
    for n, length in enumerate(lengths):
        state = v_THV.new_zeros(*k_THK.shape[1:], v_THV.shape[2]) if state_NHKV is None else state_NHKV[n]
        for _ in range(length):
            state = torch.exp(log_decay_THK[t])[..., None] * state + torch.einsum("hk,hv->hkv", k_THK[t], v_THV[t])
            outputs.append(scale * torch.einsum("hkv,hk->hv", state, q_THK[t]))
            t += 1
        states.append(state)
    return torch.stack(outputs), torch.stack(states)
