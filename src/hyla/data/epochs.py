"""The order of what is read again and again: every epoch is one permutation, a function of (seed, epoch)."""

from __future__ import annotations

from functools import lru_cache

import torch

EPOCH_SEED_STRIDE = 1_000_003
"""Keeps the shuffles of (seed, epoch) apart for all small seeds and epochs."""


def permutation(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The places 0 to count - 1 in the order of an epoch (from 0); int64 [count]."""
    generator = torch.Generator().manual_seed(seed + EPOCH_SEED_STRIDE * (epoch + 1))
    return torch.randperm(count, generator=generator)


class EpochSteps:
    """Steps of `per_step` of `count` things. Those left at the end of an epoch, fewer than a step has, are not read in
    it. per_step: at most count."""

    def __init__(self, count: int, per_step: int, seed: int):
        self.count, self.per_step, self.seed = count, per_step, seed
        self._epoch = lru_cache(maxsize=2)(lambda epoch: permutation(count, seed, epoch).tolist())

    def of(self, step: int) -> list[int]:
        """Places of the things of step `step` (from 0)."""
        epoch, place = divmod(step, self.count // self.per_step)
        return self._epoch(epoch)[place * self.per_step : (place + 1) * self.per_step]
