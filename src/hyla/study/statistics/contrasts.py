"""A weighted sum of means over seeds, one mean for each budget, with its standard error and degrees of freedom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, inf, sqrt

import numpy as np

from hyla.study.statistics.distributions import t_quantile, t_tails
from hyla.study.statistics.points import Interval

ROUNDING = 1e-12
"""Losses and shares of right answers that differ by no more are equal: differences of equal ones leave 1e-16."""


@dataclass(frozen=True)
class Contrast:
    """estimate: the sum. error: its standard error. df: degrees of freedom. above, below: how many of the values that
    it is made of pull it up and down."""

    estimate: float
    error: float
    df: float
    above: int
    below: int

    @property
    def p(self) -> float:
        """Two-sided p of "the true sum is zero": Student's t; where no value differs from its budget's mean, the sign
        test's, 2^(1 - n) for n values of one sign; 1 where the sum does not have the sign of most values."""
        if self.error > 0:
            return t_tails(self.estimate / self.error, self.df)
        fewer, n = min(self.above, self.below), self.above + self.below
        if not self.estimate or (self.estimate > 0) != (self.above > self.below):
            return 1.0
        return min(1.0, 2.0 ** (1 - n) * sum(comb(n, k) for k in range(fewer + 1)))

    def interval(self, level: float = 0.95) -> Interval:
        """The sum with its interval; it leaves out zero exactly where p is below 1 - level."""
        if self.error > 0:
            reach = self.error * t_quantile(level, self.df)
        else:
            reach = inf if self.estimate and self.p >= 1 - level else 0.0
        return Interval(self.estimate, self.estimate - reach, self.estimate + reach, level)


@dataclass(frozen=True)
class Scatter:
    """Of one value at a budget: its estimated variance, and with how many degrees of freedom."""

    variance: float
    df: int


def own_scatter(values: np.ndarray) -> Scatter:
    """From the values themselves, float64 [seeds], two or more."""
    return Scatter(float(values.var(ddof=1)) if np.ptp(values) > ROUNDING else 0.0, len(values) - 1)


def contrast(values: Sequence[np.ndarray], weights: np.ndarray, scatters: Sequence[Scatter]) -> Contrast:
    """sum_b weights[b] * mean(values[b]); values[b]: float64 [seeds of budget b], two or more each.

    scatters: of each budget; they need not be equal.
    """
    counts = np.array([len(v) for v in values])
    parts = weights**2 * np.array([scatter.variance for scatter in scatters]) / counts
    estimate = float(weights @ np.array([v.mean() for v in values]))
    df = float(degrees_of_freedom(parts, np.array([scatter.df for scatter in scatters])))
    pulls = np.concatenate([weight * v for weight, v in zip(weights, values)])
    return _contrast(estimate, sqrt(float(parts.sum())), df, pulls)


def _contrast(estimate: float, error: float, df: float, pulls: np.ndarray) -> Contrast:
    above, below = int((pulls > ROUNDING).sum()), int((pulls < -ROUNDING).sum())
    return Contrast(estimate if abs(estimate) > ROUNDING else 0.0, error, df, above, below)


def by_seeds(table: np.ndarray) -> Contrast:
    """The mean over budgets from one value per seed, whatever its values at the budgets have in common.

    table: float64 [budgets, seeds].
    """
    means = table.mean(0)
    return _contrast(float(means.mean()), sqrt(own_scatter(means).variance / len(means)), len(means) - 1, means)


def degrees_of_freedom(parts: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Of a sum of estimated variances w [..., budgets] with nu [budgets] degrees of freedom each.

    Welch's and Satterthwaite's, corrected for small samples: (sum w)^2 / sum(w^2 / (nu + 2)) - 2, since E w^2 is
    (nu + 2) / nu times the square of its expectation; kept between the smallest nu and their sum.
    """
    total = parts.sum(-1)
    squares = (parts**2 / (free + 2)).sum(-1)
    df = np.divide(total**2, squares, out=np.full_like(total, np.inf), where=squares > 0) - 2
    return np.clip(df, free.min(), free.sum())
