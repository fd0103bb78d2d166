"""Whole texts through the model once: their pooled hidden states, and the log-probabilities of their own tokens.

Nothing is sampled and nothing cached. By the one arithmetic the numbers are those that a generation would see. An order
covers one text, so that running answers wait for no more than that between two of their steps.
"""

from __future__ import annotations

import torch

from hyla.engine.requests.orders import EmbedOrder, Order, ScoredToken, ScoreOrder
from hyla.engine.sampling.sampler import logprobs_of
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

HEAD_ROWS = 256
"""Rows whose logits exist at once."""


@torch.inference_mode()
def run_order(model: Model, order: Order) -> tuple:
    """What the order asks for; its ids must be the model's."""
    return _embed(model, order) if isinstance(order, EmbedOrder) else _score(model, order)


def _embed(model: Model, order: EmbedOrder) -> tuple[float, ...]:
    hidden_TD = _hidden(model, order.token_ids).double()
    pooled_D = hidden_TD.mean(0) if order.pooling == "mean" else hidden_TD[-1]
    if order.is_normalised:
        pooled_D = pooled_D / pooled_D.norm().clamp_min(1e-300)
    return tuple(pooled_D.float().tolist())


def _score(model: Model, order: ScoreOrder) -> tuple[ScoredToken, ...]:
    hidden_TD = _hidden(model, order.token_ids)
    first = max(order.first, 1)
    scored = [ScoredToken(token) for token in order.token_ids[:first]]
    for start in range(first, len(order.token_ids), HEAD_ROWS):
        wanted = order.token_ids[start : start + HEAD_ROWS]
        logits_RV = model.head_logits(hidden_TD[start - 1 : start - 1 + len(wanted)].contiguous())
        entries = logprobs_of(logits_RV, wanted, order.num_top)
        scored += [ScoredToken(own.token_id, own.logprob, own.rank, own.top) for own in entries]
    return tuple(scored)


def _hidden(model: Model, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Final hidden states [T, D] of one whole text."""
    batch = Batch.packed([len(token_ids)], device=model.device)
    return model(torch.tensor(token_ids, device=model.device), batch)
