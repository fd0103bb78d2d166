"""Whole texts to be read once and turned into vectors, as plain messages: `engine.embedding` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class EmbedCommand:
    """The final hidden states of one text as one vector: fp32 numbers, as many as the model is wide."""

    token_ids: tuple[int, ...]
    pooling: Pooling = "mean"
    is_normalised: bool = True
    """Scale to length 1; a vector of zeros stays one."""
