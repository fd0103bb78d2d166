"""Whole texts through the model once: their pooled hidden states, and the log-probabilities of their own tokens.

Nothing is sampled and nothing cached. By the one arithmetic the numbers are those that a generation would see. An order
covers one text, so that running answers wait for no more than that between two of their steps.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import torch

from hyla.engine.sampler import logprobs_of
from hyla.engine.thread import EngineThread
from hyla.errors import RequestError
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

HEAD_ROWS = 256
"""Rows whose logits exist at once."""

Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text, given those before it. Natural log-probabilities; the first token of a text has none."""

    token_id: int
    logprob: float | None = None
    rank: int | None = None
    """1: the most likely one. Equally likely ids count as better when they are lower."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely ids with their log-probabilities, best first."""


@dataclass(frozen=True)
class EmbedOrder:
    """The final hidden states of one text as one vector."""

    token_ids: tuple[int, ...]
    pooling: Pooling = "mean"
    is_normalised: bool = True
    """Scale to length 1; a vector of zeros stays one."""

    @torch.inference_mode()
    def run(self, model: Model) -> tuple[float, ...]:
        """fp32 numbers, as many as the model is wide."""
        hidden_TD = _hidden(model, self.token_ids).double()
        pooled_D = hidden_TD.mean(0) if self.pooling == "mean" else hidden_TD[-1]
        if self.is_normalised:
            pooled_D = pooled_D / pooled_D.norm().clamp_min(1e-300)
        return tuple(pooled_D.float().tolist())


@dataclass(frozen=True)
class ScoreOrder:
    """The log-probability of each token of one text."""

    token_ids: tuple[int, ...]
    num_top: int = 0
    first: int = 0
    """Tokens before this one are context: they are returned without numbers."""

    @torch.inference_mode()
    def run(self, model: Model) -> tuple[ScoredToken, ...]:
        """One entry per token."""
        hidden_TD = _hidden(model, self.token_ids)
        first = max(self.first, 1)
        scored = [ScoredToken(token) for token in self.token_ids[:first]]
        for start in range(first, len(self.token_ids), HEAD_ROWS):
            wanted = self.token_ids[start : start + HEAD_ROWS]
            logits_RV = model.head_logits(hidden_TD[start - 1 : start - 1 + len(wanted)].contiguous())
            entries = logprobs_of(logits_RV, wanted, self.num_top)
            scored += [ScoredToken(own.token_id, own.logprob, own.rank, own.top) for own in entries]
        return tuple(scored)


Order = EmbedOrder | ScoreOrder


def submit_order(thread: EngineThread, order: Order) -> Future:
    """Queue an order on an engine's thread; the future gets its result, or what went wrong.

    Raises RequestError for ids that the model does not have and for too many of them.
    """
    engine = thread.engine
    engine.model.check_ids(order.token_ids, "the text")
    if len(order.token_ids) > engine.context_len:
        raise RequestError(
            f"the text has {len(order.token_ids)} tokens and the context {engine.context_len}; shorten it", "input"
        )
    return thread.call(lambda: order.run(engine.model))


def _hidden(model: Model, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Final hidden states [T, D] of one whole text."""
    batch = Batch.packed([len(token_ids)], device=model.device)
    return model(torch.tensor(token_ids, device=model.device), batch)
