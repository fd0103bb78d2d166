"""The gated delta rule, token by token (arXiv 2412.06464, eq. 10): the truth that other backends are compared with."""

from __future__ import annotations

import torch


def gated_delta_reference(q_THK, k_THK, v_THV, log_decay_TH, beta_TH, *, lengths, scale, state_NHKV=None):
    """Outputs [T, Hv, V] and final states [N, Hv, K, V], in the inputs' dtype.

    S <- exp(a_t) S;  S <- S + k_t (beta_t (v_t - S^T k_t))^T;  o_t = scale S^T q_t.
    q, k: [T, Hk, K]; value head h reads key head h // (Hv / Hk). lengths: tokens of each sequence.
    """
    heads, key_heads = v_THV.shape[1], k_THK.shape[1]
    q_THK = q_THK.repeat_interleave(heads // key_heads, dim=1)
    k_THK = k_THK.repeat_interleave(heads // key_heads, dim=1)
    outputs, states, t = [], [], 0
    for n, length in enumerate(lengths):
        state = v_THV.new_zeros(heads, k_THK.shape[2], v_THV.shape[2]) if state_NHKV is None else state_NHKV[n]
        for _ in range(length):
            state = state * torch.exp(log_decay_TH[t])[:, None, None]
            error = v_THV[t] - torch.einsum("hkv,hk->hv", state, k_THK[t])
            state = state + torch.einsum("hk,hv->hkv", k_THK[t], beta_TH[t][:, None] * error)
            outputs.append(scale * torch.einsum("hkv,hk->hv", state, q_THK[t]))
            t += 1
        states.append(state)
    return torch.stack(outputs), torch.stack(states)
