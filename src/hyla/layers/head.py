"""The language-model head: logits of hidden states, and the loss that never holds all of them."""

from __future__ import annotations

import torch

from hyla.layers.linear import Linear, Projection
from hyla.ops.exact import rows
from hyla.ops.exact.cross_entropy import cross_entropy_and_z


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
        return self.projection.widened(hidden_RD)

    def loss(
        self,
        hidden_TD: torch.Tensor,
        targets_T: torch.Tensor,
        chunk_rows: int,
        *,
        denominator: int | None = None,
        z_weight: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy in nats of hidden states [T, D] against the next tokens int64 [T], plus z_weight times the
        z-loss, and the z-loss; scalars.

        The first is differentiable in the hidden states and the weight. chunk_rows: logits of so many rows live at
        once. denominator: what sums over rows are divided by; None: T.
        """
        self.projection.plain_kind()  # packed and FP8 ones are refused
        return cross_entropy_and_z(
            hidden_TD, self.weight, targets_T, chunk_rows=chunk_rows, denominator=denominator, z_weight=z_weight
        )
