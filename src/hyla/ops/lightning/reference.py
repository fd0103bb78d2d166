"""Lightning attention, token by token (arXiv 2401.04658, eq. 3): the truth that other backends are compared with."""

from __future__ import annotations

import torch


def lightning_reference(q_THK, k_THK, v_THV, slopes, *, lengths, scale, state_NHKV=None):
    """Outputs [T, H, V] and final states [N, H, K, V], in the inputs' dtype.

    S <- exp(-s_h) S + k_t v_t^T;  o_t = scale S^T q_t. slopes: s_h of each head. lengths: tokens of each sequence.
    """
    heads, key_dim, value_dim = *k_THK.shape[1:], v_THV.shape[2]
    decay = torch.exp(-torch.tensor(slopes, dtype=torch.float64)).to(v_THV)[:, None, None]
    outputs, states, t = [], [], 0
    for n, length in enumerate(lengths):
        state = v_THV.new_zeros(heads, key_dim, value_dim) if state_NHKV is None else state_NHKV[n]
        for _ in range(length):
            state = decay * state + torch.einsum("hk,hv->hkv", k_THK[t], v_THV[t])
            outputs.append(scale * torch.einsum("hkv,hk->hv", state, q_THK[t]))
            t += 1
        states.append(state)
    return torch.stack(outputs), torch.stack(states)
