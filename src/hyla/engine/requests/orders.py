"""Whole texts to go through the model once, as plain messages: `embedding` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """The final hidden states of one text as one vector: fp32 numbers, as many as the model is wide."""

    token_ids: tuple[int, ...]
    pooling: Pooling = "mean"
    is_normalised: bool = True
    """Scale to length 1; a vector of zeros stays one."""


@dataclass(frozen=True)
class ScoreOrder:
    """The log-probability of each token of one text: a tuple of `ScoredToken`s, one per token."""

    token_ids: tuple[int, ...]
    num_top: int = 0
    first: int = 0
    """Tokens before this one are context: they are returned without numbers."""


Order = EmbedOrder | ScoreOrder
