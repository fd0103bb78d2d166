"""Linear attention, token by token (arXiv 2006.16236, eqs. 16-20): the truth that other backends are compared with."""

from __future__ import annotations

import torch


def linear_attention_reference(q_THK, k_THK, v_THV, *, lengths, eps: float):
    """Outputs [T, H, V], final states [N, H, K, V] and normalisers [N, H, K], in the inputs' dtype.

    S <- S + k_t v_t^T;  z <- z + k_t;  o_t = S^T q_t / (z . q_t + eps). q, k: features. lengths: of each sequence.
    """
    heads, key_dim = k_THK.shape[1:]
    outputs, states, normalisers, t = [], [], [], 0
    for length in lengths:
        state = v_THV.new_zeros(heads, key_dim, v_THV.shape[2])
        normaliser = v_THV.new_zeros(heads, key_dim)
        for _ in range(length):
            state = state + torch.einsum("hk,hv->hkv", k_THK[t], v_THV[t])
            normaliser = normaliser + k_THK[t]
            weight = torch.einsum("hk,hk->h", normaliser, q_THK[t]) + eps
            outputs.append(torch.einsum("hkv,hk->hv", state, q_THK[t]) / weight[:, None])
            t += 1
        states.append(state)
        normalisers.append(normaliser)
    return torch.stack(outputs), torch.stack(states), torch.stack(normalisers)
