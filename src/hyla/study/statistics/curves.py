"""Two curves through the mean log losses of an arm's budgets: a power law, and one with an irreducible part.

One value per budget, the mean over its seeds, and not one per run: what is peculiar to a budget (a step of the ladder
of sizes, a rate that fits there a little better) moves all its seeds together, so runs of one budget are not
independent of each other as points of a law.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from hyla.study.statistics.distributions import t_quantile
from hyla.study.statistics.points import Interval
from hyla.study.statistics.profile import OffsetProfile


@dataclass(frozen=True)
class Means:
    """x: float64 [budgets], log FLOPs minus log `reference`, ascending. y: float64 [budgets], mean log loss."""

    x: np.ndarray
    y: np.ndarray
    reference: float

    def place(self, flops: float) -> float:
        """FLOPs as an x."""
        return log(flops / self.reference)


class PlainCurve:
    """log L = log a + b x, by least squares. Errors of `y` that are normal and alike make every interval exact."""

    parameters = 2

    def __init__(self, means: Means):
        self.x = means.x
        self.df = len(means.x) - self.parameters
        self.spread = float(((means.x - means.x.mean()) ** 2).sum())
        self.slope = float((means.x - means.x.mean()) @ means.y) / self.spread
        self.height = float(means.y.mean() - self.slope * means.x.mean())
        self.residuals = means.y - self.height - self.slope * means.x
        self.error = sqrt(float(self.residuals @ self.residuals) / self.df)

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log loss [n] at x [n], and its derivatives [n, budgets] by the mean log losses."""
        centred = self.x - self.x.mean()
        weights = 1 / len(self.x) + (x - self.x.mean())[:, None] * centred / self.spread
        return self.height + self.slope * x, weights

    def loss(self, x: float, level: float) -> Interval:
        """The loss at x."""
        height, weights = self.at(np.array([x]))
        reach = t_quantile(level, self.df) * self.error * sqrt(float(weights[0] @ weights[0]))
        middle = float(height[0])
        return Interval(exp(middle), exp(middle - reach), exp(middle + reach), level)

    def a(self, level: float) -> Interval:
        """The loss at the reference."""
        return self.loss(0.0, level)

    def b(self, level: float) -> Interval:
        """The exponent."""
        reach = t_quantile(level, self.df) * self.error / sqrt(self.spread)
        return Interval(self.slope, self.slope - reach, self.slope + reach, level)

    def e(self, level: float) -> Interval:
        """Zero, as a plain law has it."""
        return Interval(0.0, 0.0, 0.0, level)


class OffsetCurve:
    """L = e + a exp(b x), e >= 0, by least squares of relative errors. For every b the best (e, a) have a closed form,
    so the search is over b alone, cannot end in a wrong valley and needs no start (variable projection).

    Intervals are by profile: the values of a parameter for which the best of all others leave a sum of squares of at
    most (1 + t^2 / df) times the least one. They need not be symmetric, and may have no end.
    """

    parameters = 3

    def __init__(self, means: Means):
        self.x = means.x
        self.df = len(means.x) - self.parameters
        self.profile = OffsetProfile(means.x, np.exp(means.y))
        best = self.profile.best
        self.offset, self.scale, self.slope = best.e, best.a, best.b
        self.residuals = 1 - self._loss(means.x) * np.exp(-means.y)
        by = self._derivatives(means.x) * (self._loss(means.x) * np.exp(-means.y))[:, None]
        self.pull = np.linalg.pinv(by)

    def _loss(self, x: np.ndarray) -> np.ndarray:
        return self.offset + self.scale * np.exp(self.slope * x)

    def _derivatives(self, x: np.ndarray) -> np.ndarray:
        """Of log loss by (a, b, e) [n, 3]; without e where it is at its bound."""
        decay = np.exp(self.slope * x)
        columns = [decay, self.scale * x * decay] + ([np.ones_like(x)] if self.offset > 0 else [])
        return np.stack(columns, axis=1) / self._loss(x)[:, None]

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log loss [n] at x [n], and its derivatives [n, budgets] by the mean log losses."""
        return np.log(self._loss(x)), self._derivatives(x) @ self.pull

    def loss(self, x: float, level: float) -> Interval:
        """The loss at x."""
        estimate = float(self._loss(np.array([x]))[0])
        return Interval(estimate, *self.profile.loss_ends(x, estimate, self._allowed(level)), level)

    def a(self, level: float) -> Interval:
        """The part at the reference that falls with FLOPs."""
        return Interval(self.scale, *self.profile.a_ends(self._allowed(level)), level)

    def b(self, level: float) -> Interval:
        """The exponent."""
        return Interval(self.slope, *self.profile.b_ends(self._allowed(level)), level)

    def e(self, level: float) -> Interval:
        """The part that no FLOPs take away."""
        return Interval(self.offset, *self.profile.e_ends(self._allowed(level)), level)

    def _allowed(self, level: float) -> float:
        """How many times the least sum of squares is still in the interval."""
        return 1 + t_quantile(level, self.df) ** 2 / self.df


Curve = PlainCurve | OffsetCurve
