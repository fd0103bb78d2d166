"""Intervals of means."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import mean, stdev

RESAMPLES = 1000
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t below which 97.5% lie, for 1 to 30 degrees of freedom."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95% of the means of bootstrap samples (percentile method), drawn with a fixed seed."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the mean of a few equally noisy values (Student's t); None for fewer than two.

    Where `interval` resamples many items, this one is for the seeds of a run: of three values, resampling would give
    an interval that is much too narrow.
    """
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    quantile = STUDENT[degrees - 1] if degrees <= len(STUDENT) else 1.96 + 2.4 / degrees
    half = quantile * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


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
