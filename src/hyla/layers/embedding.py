"""Token embeddings: rows of a matrix, which the head may share."""

from __future__ import annotations

import torch
from torch import nn

from hyla.layers.linear import Projection
from hyla.ops.weights import Tiled


class Embedding(nn.Module):
    """Rows of `weight` [vocab, D] by token id. A head that shares the weight may keep it in its own way; there is no
    second copy then: the rows are read there."""

    weight: torch.Tensor

    def __init__(self, vocab_size: int, hidden_dim: int):
        super().__init__()
        # Blank like every other weight: nn.Embedding's own random start costs seconds, on the meta device as well.
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_dim))
        self._shared: Projection | None = None

    def share(self, projection: Projection) -> None:
        """Say which product computes with this weight, too."""
        self._shared = projection
        projection.tie(self, "weight")

    @property
    def _tiled(self) -> Tiled | None:
        weights = None if self._shared is None or not self._shared.is_packed else self._shared.weights
        return weights if isinstance(weights, Tiled) else None

    @property
    def device(self) -> torch.device:
        """Where its rows are."""
        tiled = self._tiled
        return self.weight.device if tiled is None else tiled.tiles.device

    def forward(self, tokens_T: torch.Tensor) -> torch.Tensor:
        """Token ids int64 [T] -> rows [T, D] in the weight's dtype."""
        tiled = self._tiled
        return nn.functional.embedding(tokens_T, self.weight) if tiled is None else tiled.stored_rows(tokens_T)
