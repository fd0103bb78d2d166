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
    window: int | None = None,
    sinks_H: torch.Tensor | None = None,
) -> torch.Tensor:
    """o [T, Hq, V] of whole sequences, in the inputs' dtype (give float64). Differentiable."""
    if v_TGV is None:
        v_TGV = k_TGK[..., :value_dim]
    group_heads = q_THK.shape[1] // k_TGK.shape[1]
    outputs = []
    for offset, length in zip(batch.offsets, batch.lengths):
        for t in range(length):
            first = 0 if window is None else max(0, t - window + 1)
            seen = slice(offset + first, offset + t + 1)
            heads = []
            for h in range(q_THK.shape[1]):
                keys_SK, values_SV = k_TGK[seen, h // group_heads], v_TGV[seen, h // group_heads]
                scores_S = scale * (keys_SK @ q_THK[offset + t, h])
                if sinks_H is not None:
                    scores_S = torch.cat([scores_S, sinks_H[h : h + 1]])
                weights_S = torch.softmax(scores_S, 0)[: values_SV.shape[0]]
                heads.append(weights_S @ values_SV)
            outputs.append(torch.stack(heads))
    return torch.stack(outputs)
