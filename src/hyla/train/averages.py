"""Averaged weights: of all steps with a fading memory, or the plain mean along the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from hyla.errors import CheckpointError
from hyla.train.config import AverageConfig


class Average:
    """A mean of the weights along a run, fp32, with the same bits however often the run was stopped."""

    def __init__(self, weights: Mapping[str, torch.nn.Parameter], config: AverageConfig, steps: int):
        """steps: of the whole run."""
        self._weights, self._config, self._steps = weights, config, steps
        self.mean: dict[str, torch.Tensor] = {}
        """By name; empty until a first step was counted."""
        self.count = 0
        """Weights that are in the mean."""

    def _share(self, finished: int) -> float:
        """How far the mean moves towards the weights after so many steps; 0: they do not count."""
        if self._config.kind == "ema":
            return 1.0 - self._config.decay if self.count else 1.0
        left = self._steps - finished
        begins = round(self._steps * (1.0 - self._config.fraction))
        return 1.0 / (self.count + 1) if finished > begins and left % self._config.every == 0 else 0.0

    @torch.no_grad()
    def update(self, finished: int) -> None:
        """Count the weights after step number `finished` (from 1)."""
        share = self._share(finished)
        if share == 0.0:
            return
        for name, weight in self._weights.items():
            if name in self.mean:
                self.mean[name].lerp_(weight.detach(), share)
            else:
                self.mean[name] = weight.detach().clone()
        self.count += 1

    @torch.no_grad()
    def take_over(self) -> None:
        """The mean in the place of the weights, for good. Nothing happens before a first step."""
        for name, mean in self.mean.items():
            self._weights[name].copy_(mean)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The mean in the place of the weights, inside; the weights come back. Nothing happens before a first step."""
        kept = {name: weight.detach().clone() for name, weight in self._weights.items() if name in self.mean}
        self.take_over()
        try:
            yield
        finally:
            for name, weight in kept.items():
                self._weights[name].copy_(weight)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The mean, to be kept (not copied)."""
        return dict(self.mean)

    def load(self, tensors: Mapping[str, torch.Tensor], count: int) -> None:
        """Put back what was kept. Raises CheckpointError for another model's."""
        wrong = next((name for name in tensors if name not in self._weights), None)
        if wrong is not None:
            raise CheckpointError(f"the averaged weights of a checkpoint have {wrong}, which this model has not")
        self.mean = {name: tensor.to(self._weights[name].device, copy=True) for name, tensor in tensors.items()}
        self.count = count
