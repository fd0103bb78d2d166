"""Causal attention, token by token: the truth that every backend is compared with."""

from __future__ import annotations

import torch

from hyla.ops.batch import Batch


def attention_reference(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGV: torch.Tensor | None,
    batch: Batch,
    scale: float,
    value_dim: int | None = None,
) -> torch.Tensor:
    """o [T, Hq, V] of whole sequences, in the inputs' dtype (give float64). Differentiable."""
    if v_TGV is None:
        v_TGV = k_TGK[..., :value_dim]
    group_heads = q_THK.shape[1] // k_TGK.shape[1]
    outputs = []
    for offset, length in zip(batch.offsets, batch.lengths):
        for t in range(length):
            seen = slice(offset, offset + t + 1)
            heads = []
            for h in range(q_THK.shape[1]):
                keys_SK, values_SV = k_TGK[seen, h // group_heads], v_TGV[seen, h // group_heads]
                scores_S = scale * (keys_SK @ q_THK[offset + t, h])
                heads.append(torch.softmax(scores_S, 0) @ values_SV)
            outputs.append(torch.stack(heads))
    return torch.stack(outputs)
