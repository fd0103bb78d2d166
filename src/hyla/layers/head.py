"""The language-model head: logits of hidden states, and the loss that never holds all of them."""

from __future__ import annotations

import torch

from hyla.layers.linear import Linear, Projection
from hyla.ops.exact import rows
from hyla.ops.exact.cross_entropy import cross_entropy
from hyla.ops.exact.primitives import wide


class Head(Linear):
    """Logits W h in fp32 from `weight` [vocab, D], whatever dtype the model has; the weight may be the embedding's."""

    def __init__(self, hidden_dim: int, vocab_size: int):
        super().__init__(hidden_dim, vocab_size)
        self.projection = Projection(self, dtype=torch.float32)
        self.projections = (self.projection,)

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        """Hidden states [R, D] -> fp32 [R, vocab] (float64 for float64, an oracle's dtype, which is never packed)."""
        if hidden_RD.dtype == torch.float64:
            return rows.linear(hidden_RD, self.weight)
        return self.projection(hidden_RD)[0]

    def loss(
        self, hidden_TD: torch.Tensor, targets_T: torch.Tensor, chunk_rows: int, divisor: float | None = None
    ) -> torch.Tensor:
        """Mean cross-entropy in nats of hidden states [T, D] against the next tokens int64 [T]; a scalar.

        Differentiable in the hidden states and the weight. chunk_rows: logits of so many rows live at once.
        divisor: of the summed losses; None: the number of rows.
        """
        weight_VD = self.weight if hidden_TD.dtype == torch.float64 else self.projection.plain()
        return cross_entropy(wide(hidden_TD), weight_VD, targets_T, chunk_rows=chunk_rows, divisor=divisor)
