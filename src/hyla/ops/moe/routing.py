"""Scores and the stable choice of experts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hyla.errors import ConfigError
from hyla.ops.exact.primitives import sigmoid, softmax_last
from hyla.ops.exact.sums import row_sum

NORMALIZE_EPS = {"softmax": 0.0, "sigmoid": 1e-20}
"""Added to the sum of the selected scores before dividing by it, as the published models do."""

SORT_ROWS = 8
"""Up to this many rows one sort is faster than k searches; both choose the same experts."""

Replay = Callable[[torch.Tensor], torch.Tensor]
"""Given the choice of a router, int64 [T, k], the one that is taken instead: in its place, or the same tensor."""


def top_k(x_TE: torch.Tensor, k: int) -> torch.Tensor:
    """int64 [T, k]: places of the k largest values of each row, largest first; ties go to the lower place."""
    if x_TE.shape[0] <= SORT_ROWS:
        return x_TE.sort(dim=-1, descending=True, stable=True)[1][:, :k]
    # max returns the first of equal values (torch's documented promise); taken ones are then out of the race.
    left, places = x_TE.clone(), []
    for _ in range(k):
        places.append(left.max(dim=-1, keepdim=True)[1])
        left.scatter_(1, places[-1], -torch.inf)
    return torch.cat(places, dim=1)


def score_of(logits_TE: torch.Tensor, score: str) -> torch.Tensor:
    """Scores [T, E]; differentiable."""
    return sigmoid(logits_TE) if score == "sigmoid" else softmax_last(logits_TE)


def weigh(scores_TE, ids_Tk, *, score: str, normalize: bool, scaling: float) -> torch.Tensor:
    """Weights [T, k] of the chosen experts; differentiable to the scores."""
    weights_Tk = scores_TE.gather(1, ids_Tk)
    if normalize:
        weights_Tk = weights_Tk / (row_sum(weights_Tk)[..., None] + NORMALIZE_EPS[score])
    return weights_Tk * scaling


def select(logits_TE, bias_E, *, num_chosen: int, score: str, num_groups: int, num_groups_kept: int):
    """Scores [T, E] (differentiable) and the chosen experts [T, k]."""
    scores_TE = score_of(logits_TE, score)
    biased_TE = scores_TE.detach()
    if bias_E is not None:
        biased_TE = biased_TE + bias_E.detach()
    if num_groups > 1:
        biased_TE = _keep_groups(biased_TE, num_groups, num_groups_kept)
    return scores_TE, top_k(biased_TE, num_chosen)


def _keep_groups(biased_TE: torch.Tensor, num_groups: int, num_groups_kept: int) -> torch.Tensor:
    """Minus infinity outside the groups whose two largest values have the largest sums."""
    tokens, num_experts = biased_TE.shape
    members = biased_TE.reshape(tokens * num_groups, num_experts // num_groups)
    best = members.gather(1, top_k(members, min(2, members.shape[1])))
    group_scores_TG = row_sum(best).view(tokens, num_groups)
    is_kept_TG = torch.zeros_like(group_scores_TG, dtype=torch.bool)
    is_kept_TG.scatter_(1, top_k(group_scores_TG, num_groups_kept), True)
    is_kept_TE = is_kept_TG.repeat_interleave(num_experts // num_groups, dim=1)
    return biased_TE.masked_fill(~is_kept_TE, -torch.inf)


def replayed(route, replay: Replay, logits_TE, bias_E, *, score: str, normalize: bool, scaling: float, **options):
    """Weights and ids of a backend's `route`, with another choice where there is one (rollout routing replay, arXiv
    2510.11370). Where it is the same, the bits are `route`'s; a row's do not depend on the other rows.

    Raises ConfigError for a choice of another shape.
    """
    named = {"score": score, "normalize": normalize, "scaling": scaling}
    weights_Tk, own_Tk = route(logits_TE, bias_E, **named, **options)
    ids_Tk = replay(own_Tk)
    if ids_Tk.shape != own_Tk.shape:
        raise ConfigError(f"{tuple(ids_Tk.shape)} choices were given to replay for {tuple(own_Tk.shape)} of a router")
    differs_T1 = (ids_Tk != own_Tk).any(-1, keepdim=True)
    if not bool(differs_T1.any()):
        return weights_Tk, own_Tk
    other_Tk = weigh(score_of(logits_TE, score), ids_Tk, **named)
    return torch.where(differs_T1, other_Tk, weights_Tk), ids_Tk
