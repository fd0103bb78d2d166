"""Means over the seeds of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import mean

from hyla.study.statistics import Interval
from hyla.train.intervals import mean_interval


def seed_mean(values: Sequence[float]) -> Interval | None:
    """Mean over seeds with its 95% interval (Student's t): without bounds for one seed, None for none."""
    if not values:
        return None
    low, high = mean_interval(values) or (-inf, inf)
    return Interval(mean(values), low, high)
