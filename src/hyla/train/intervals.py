"""Intervals of means."""

from __future__ import annotations

import random
from collections.abc import Sequence

RESAMPLES = 1000


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95% of the means of bootstrap samples (percentile method), drawn with a fixed seed."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
