"""State space dual, token by token (arXiv 2405.21060, eqs. 1 and 2): the truth that other forms are compared with."""

from __future__ import annotations

import torch


def ssd_reference(q_TGK, k_TGK, v_THV, log_decay_TH, *, lengths, state_NHKV=None):
    """Outputs [T, H, V] and final states [N, H, K, V], in the inputs' dtype.

    S <- exp(a_t) S + k_t v_t^T;  o_t = S^T q_t.
    q, k: [T, G, K]; head h reads group h // (H / G). lengths: tokens of each sequence.
    """
    heads, groups = v_THV.shape[1], k_TGK.shape[1]
    q_THK = q_TGK.repeat_interleave(heads // groups, dim=1)
    k_THK = k_TGK.repeat_interleave(heads // groups, dim=1)
    outputs, states, t = [], [], 0
    for n, length in enumerate(lengths):
        state = v_THV.new_zeros(heads, k_TGK.shape[2], v_THV.shape[2]) if state_NHKV is None else state_NHKV[n]
        for _ in range(length):
            state = state * torch.exp(log_decay_TH[t])[:, None, None]
            state = state + torch.einsum("hk,hv->hkv", k_THK[t], v_THV[t])
            outputs.append(torch.einsum("hkv,hk->hv", state, q_THK[t]))
            t += 1
        states.append(state)
    return torch.stack(outputs), torch.stack(states)
