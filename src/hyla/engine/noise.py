"""Sampling noise that is a pure function of (seed, choice, position): who else is in the batch cannot change it."""

from __future__ import annotations

import numpy as np
import torch

MANTISSA_BITS = 53


def uniform_noise(seed: int, choice: int, position: int, size: int) -> torch.Tensor:
    """float64 [size] in the open interval (0, 1): the counter-based generator Philox-4x64-10 (Salmon et al., SC 2011).

    Key (seed, choice); counter (0, position, 0, 0) upwards, so that 2^64 blocks of four numbers belong to a position.
    The words are turned into numbers here, not by numpy's distributions, which may change between versions.
    """
    words = np.random.Philox(key=[seed, choice], counter=[0, position, 0, 0]).random_raw(size)
    numbers = ((words >> np.uint64(64 - MANTISSA_BITS)).astype(np.float64) + 0.5) * 2.0**-MANTISSA_BITS
    return torch.from_numpy(numbers)


def gumbel_noise(seed: int, choice: int, position: int, size: int) -> torch.Tensor:
    """float64 [size] standard Gumbel numbers: argmax(log p + noise) is a sample of p."""
    return uniform_noise(seed, choice, position, size).log_().neg_().log_().neg_()
