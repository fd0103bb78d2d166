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


def interval_of_groups(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The same for the mean of all values of groups that are drawn whole: values of one group are not independent. Each
    group has a value at least."""
    draw = random.Random(0)
    sums = [(sum(values), len(values)) for values in groups]
    means = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
