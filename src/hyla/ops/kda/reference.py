"""Kimi Delta Attention, token by token (arXiv 2510.26692, eq. 1): the truth that other backends are compared with."""

from __future__ import annotations

import torch


def kda_reference(q_THK, k_THK, v_THV, log_decay_THK, beta_TH, *, lengths, scale, state_NHKV=None):
    """Outputs [T, H, V] and final states [N, H, K, V], in the inputs' dtype.

    S <- diag(exp(a_t)) S;  S <- S + k_t (beta_t (v_t - S^T k_t))^T;  o_t = scale S^T q_t.
    """
    outputs, states, t = [], [], 0
    for n, length in enumerate(lengths):
        shape = (k_THK.shape[1], k_THK.shape[2], v_THV.shape[2])
        state = v_THV.new_zeros(shape) if state_NHKV is None else state_NHKV[n]
        for _ in range(length):
            state = state * torch.exp(log_decay_THK[t])[:, :, None]
            error = v_THV[t] - torch.einsum("hkv,hk->hv", state, k_THK[t])
            state = state + torch.einsum("hk,hv->hkv", k_THK[t], beta_TH[t][:, None] * error)
            outputs.append(scale * torch.einsum("hkv,hk->hv", state, q_THK[t]))
            t += 1
        states.append(state)
    return torch.stack(outputs), torch.stack(states)
