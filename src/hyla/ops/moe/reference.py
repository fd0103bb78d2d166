"""Routing and experts, token by token: the truth that the grouped form is compared with."""

from __future__ import annotations

import torch


def route_reference(
    logits_TE, bias_E, *, num_experts_per_token, score, normalize, num_groups=1, num_groups_kept=1, scaling=1.0
):
    """Weights [T, k] and ids [T, k], one token at a time, by Python's own stable sort."""
    weights, ids = [], []
    for logits_E in logits_TE:
        scores = torch.sigmoid(logits_E) if score == "sigmoid" else torch.softmax(logits_E, dim=-1)
        biased = (scores if bias_E is None else scores + bias_E).tolist()
        size = len(biased) // num_groups
        groups = [range(g * size, (g + 1) * size) for g in range(num_groups)]
        group_scores = [sum(sorted((biased[e] for e in group), reverse=True)[:2]) for group in groups]
        kept = sorted(range(num_groups), key=lambda g: -group_scores[g])[:num_groups_kept]
        allowed = sorted(e for g in kept for e in groups[g])
        chosen = sorted(allowed, key=lambda e: -biased[e])[:num_experts_per_token]
        mine = torch.stack([scores[e] for e in chosen])
        if normalize:
            mine = mine / (mine.sum() + (1e-20 if score == "sigmoid" else 0.0))
        weights.append(mine * scaling)
        ids.append(chosen)
    return torch.stack(weights), torch.tensor(ids)


def experts_reference(x_TD, weights_Tk, ids_Tk, gate_EID, up_EID, down_EDI) -> torch.Tensor:
    """y_t = sum_j w_tj down_e(silu(gate_e x_t) * up_e x_t); without a gate, down_e(relu(up_e x_t)^2)."""
    rows = []
    for x_D, weights_k, ids_k in zip(x_TD, weights_Tk, ids_Tk.tolist()):
        y_D = torch.zeros_like(x_D)
        for weight, e in zip(weights_k, ids_k):
            up_I = up_EID[e] @ x_D
            if gate_EID is None:
                act_I = torch.relu(up_I).square()
            else:
                gate_I = gate_EID[e] @ x_D
                act_I = gate_I * torch.sigmoid(gate_I) * up_I
            y_D = y_D + weight * (down_EDI[e] @ act_I)
        rows.append(y_D)
    return torch.stack(rows)
