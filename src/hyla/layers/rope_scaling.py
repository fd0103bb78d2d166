"""Position-code scalings: how the frequencies of RoPE change so that a model reads past its training length.

Each is a frozen value with `frequencies` (float64 [rotary_dim / 2], radians per position) and `attention_factor` (on
cosines and sines).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # published sizes read `yarn_magnitude` without PyTorch
    import torch


def plain_frequencies(rotary_dim: int, theta: float) -> torch.Tensor:
    """theta^(-2i / rotary_dim), float64. Source: arXiv 2104.09864, section 3.2.2."""
    import torch

    return theta ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)


class Scaling(Protocol):
    """What a `RotaryTable` asks of a scaling, which is hashable: tables are shared by it."""

    @property
    def attention_factor(self) -> float: ...

    def frequencies(self, rotary_dim: int, theta: float) -> torch.Tensor: ...


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor. Source: position interpolation, arXiv 2306.15595."""

    factor: float
    attention_factor: float = 1.0

    def frequencies(self, rotary_dim: int, theta: float) -> torch.Tensor:
        return plain_frequencies(rotary_dim, theta) / self.factor


@dataclass(frozen=True)
class FactorsScaling:
    """Each frequency divided by a number of its own (GGUF's `rope_freqs`)."""

    factors: tuple[float, ...]
    attention_factor: float = 1.0

    def frequencies(self, rotary_dim: int, theta: float) -> torch.Tensor:
        plain = plain_frequencies(rotary_dim, theta)
        return plain / plain.new_tensor(self.factors)


@dataclass(frozen=True)
class Llama3Scaling:
    """Long waves divided by a factor, short ones kept, a straight blend between (Llama 3.1, model card's code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_len: int
    attention_factor: float = 1.0

    def frequencies(self, rotary_dim: int, theta: float) -> torch.Tensor:
        plain = plain_frequencies(rotary_dim, theta)
        turns = self.original_max_len * plain / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = kept.clamp(0.0, 1.0)
        return plain * (kept + (1.0 - kept) / self.factor)


@dataclass(frozen=True)
class YarnScaling:
    """Interpolation of the channels that turn fewer than beta_slow times in the original length, none of those that
    turn more than beta_fast times, a ramp between. Source: YaRN, arXiv 2309.00071, sections 3.2 and 3.4."""

    factor: float
    original_max_len: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    attention_factor: float

    def frequencies(self, rotary_dim: int, theta: float) -> torch.Tensor:
        import torch

        plain = plain_frequencies(rotary_dim, theta)
        low, high = (self._channel(turns, rotary_dim, theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotary_dim - 1)
        width = high - low if high != low else 0.001  # as published: a step instead of a division by zero
        ramp = ((torch.arange(rotary_dim // 2, dtype=torch.float64) - low) / width).clamp(0.0, 1.0)
        return plain * (1.0 - ramp) + plain / self.factor * ramp

    def _channel(self, turns: float, rotary_dim: int, theta: float) -> float:
        """The (real) channel that turns so many times in the original length."""
        return rotary_dim * math.log(self.original_max_len / (turns * 2 * math.pi)) / (2 * math.log(theta))


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """0.1 weight ln(factor) + 1, YaRN's temperature (arXiv 2309.00071, section 3.4); 1 where nothing is stretched.

    >>> round(yarn_magnitude(40.0), 4)
    1.3689
    """
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
