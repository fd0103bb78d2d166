"""Indexer and selected attention, token by token: the truth that every backend is compared with."""

from __future__ import annotations

import torch

from hyla.ops.batch import Batch


def index_scores_reference(q_THI, k_TI, weights_TH, batch: Batch, scale: float) -> list[torch.Tensor]:
    """Row t's scores over the positions up to its own, for every row of whole sequences, in the inputs' dtype."""
    scores = []
    for offset, length in zip(batch.offsets, batch.lengths):
        for t in range(offset, offset + length):
            by_head_HS = torch.relu(q_THI[t] @ k_TI[offset : t + 1].T * scale)
            scores.append((weights_TH[t][:, None] * by_head_HS).sum(0))
    return scores


def selection_reference(scores: list[torch.Tensor], num_selected: int) -> list[list[int]]:
    """Positions of the largest scores of each row, ascending; ties go to the lower position."""
    chosen = []
    for row in scores:
        values = row.tolist()
        best = sorted(range(len(values)), key=lambda position: (-values[position], position))
        chosen.append(sorted(best[:num_selected]))
    return chosen


def sparse_attention_reference(q_THK, k_TK, chosen: list[list[int]], batch: Batch, scale: float, value_dim: int):
    """o [T, H, V] of whole sequences, in the inputs' dtype (give float64). Differentiable."""
    outputs = []
    for offset, length in zip(batch.offsets, batch.lengths):
        for t in range(offset, offset + length):
            keys_SK = k_TK[offset : offset + length][chosen[t]]
            weights_HS = torch.softmax(scale * (q_THK[t] @ keys_SK.T), -1)
            outputs.append(weights_HS @ keys_SK[:, :value_dim])
    return torch.stack(outputs)


def divergence_reference(
    scores: list[torch.Tensor], queries_THK, keys_TK, chosen: list[list[int]] | None, batch: Batch, scale: float
) -> torch.Tensor:
    """KL of every row's attention, summed over heads and normalised, from the softmax of its index scores, [T].

    scores: of `index_scores_reference`; chosen: the keys that attention reads, None for all. Differentiable.
    """
    found = []
    for offset, length in zip(batch.offsets, batch.lengths):
        for t in range(offset, offset + length):
            read = list(range(t - offset + 1)) if chosen is None else chosen[t]
            keys_SK = keys_TK[offset : offset + length][read]
            p_S = torch.softmax(scale * (queries_THK[t] @ keys_SK.T), -1).sum(0)
            p_S = (p_S / p_S.sum()).detach()
            found.append((p_S * (p_S.log() - torch.log_softmax(scores[t][read], -1))).sum())
    return torch.stack(found)
