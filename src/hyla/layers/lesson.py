"""What lightning indexers are taught while a model is trained: to score keys as attention weighs them."""

from __future__ import annotations

from typing import Literal

import torch

Stage = Literal["warmup", "sparse"]


class Lesson:
    """How all indexers of one model learn, and what they owe in the forward pass that is running.

    A layer that has one adds each row's divergence (`ops.sparse.index_divergence`) wherever gradients are taken;
    whoever makes the loss collects them. In "warmup" its attention reads all keys, in "sparse" the selected ones. The
    stage stays the same for a run: the backward pass may compute a layer once more, and must meet the same lesson.
    Source: DeepSeek-V3.2, arXiv 2512.02556, section 2.1.1.
    """

    def __init__(self, stage: Stage):
        self.stage: Stage = stage
        self._found: list[torch.Tensor] | None = None

    def begin(self) -> None:
        """A forward pass starts whose divergences will be taken."""
        self._found = []

    def add(self, divergence_T: torch.Tensor) -> None:
        """What one layer owes, by row. Nobody waits for it where a layer is computed once more: it is let go."""
        if self._found is not None:
            self._found.append(divergence_T)

    def take(self) -> list[torch.Tensor]:
        """[T] of each layer that ran since `begin`, or since this was called last."""
        found, self._found = self._found or [], []
        return found

    def end(self) -> None:
        """The forward pass is over."""
        self._found = None
