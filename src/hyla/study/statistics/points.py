"""What the statistics of a study read and say: points, intervals, and points sorted by arm and budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from hyla.errors import ConfigError

Better = Literal["lower", "higher"]
"""Which of two values of a measure is the better one: "lower" for bits per byte, "higher" for an accuracy."""


NoiseOf = Literal["pair", "arms"]
"""Whose runs the noise of a comparison is estimated from: of the two arms alone, or of all arms of the table, which is
right where noise is about alike in all of them."""


@dataclass(frozen=True)
class Point:
    """One run's result.

    budget: FLOPs that the plan asked for; the key by which arms are compared.
    loss: the measure, a finite number: bits per byte, or an accuracy where a comparison is told that higher is better.
    flops: FLOPs that the run took, for laws; None: those of the budget.
    """

    arm: str
    budget: float
    seed: int
    loss: float
    flops: float | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the estimate's unit. `low` and `high` may be infinite: no bound is known."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def is_bounded(self) -> bool:
        """Whether both ends are known."""
        return isfinite(self.low) and isfinite(self.high)


Arms = dict[str, dict[float, dict[int, Point]]]
"""Points by arm, budget and seed."""


def by_arm(points: Iterable[Point]) -> Arms:
    """Points by arm (in the order of their first point), budget (ascending) and seed (ascending).

    Raises ConfigError for two points of one arm, budget and seed, for a budget or FLOPs that are not above zero and for
    a loss that is not finite.
    """
    found: Arms = {}
    for point in points:
        for name, value in (("budget", point.budget), ("flops", point.flops)):
            if value is not None and not (isfinite(value) and value > 0):
                raise ConfigError(f"{name} of arm {point.arm!r}, seed {point.seed}, is {value}: give FLOPs above zero")
        if not isfinite(point.loss):
            raise ConfigError(
                f"the result of arm {point.arm!r}, budget {point.budget:g}, seed {point.seed} is {point.loss}: "
                "leave out runs that ended without a number"
            )
        seeds = found.setdefault(point.arm, {}).setdefault(point.budget, {})
        if point.seed in seeds:
            raise ConfigError(
                f"arm {point.arm!r}, budget {point.budget:g}, seed {point.seed} comes twice: give each run once"
            )
        seeds[point.seed] = point
    return {
        arm: {budget: dict(sorted(seeds.items())) for budget, seeds in sorted(budgets.items())}
        for arm, budgets in found.items()
    }
