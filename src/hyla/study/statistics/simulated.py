"""Studies whose truth is known, to hold the statistics against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from hyla.study.statistics.points import Point


@dataclass(frozen=True)
class Truth:
    """L(C) = e + a (C / reference)^b, reference the geometric mean of the budgets."""

    a: float
    b: float
    e: float = 0.0

    def loss(self, ratio: float) -> float:
        """The loss at `ratio` times the reference."""
        return self.e + self.a * ratio**self.b

    def ratio_for(self, loss: float) -> float:
        """Where the law has a loss, as a ratio to the reference."""
        return ((loss - self.e) / self.a) ** (1 / self.b)


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what is added to a run's log loss, each normal.

    run: of the run alone. seed: the same in all arms at one budget and seed (the order of the data).
    budget: the same in all arms and seeds of a budget (a step of the sizes). fit: of an arm at a budget, the same in
    its seeds (a rate that fits there a little better).
    """

    run: float
    seed: float = 0.0
    budget: float = 0.0
    fit: float = 0.0


def simulate(
    arms: Mapping[str, Truth], budgets: Sequence[float], seeds: int, noise: Noise, generator: np.random.Generator
) -> list[Point]:
    """The points of a study: one of every arm, budget and seed."""
    reference = np.exp(np.mean([log(budget) for budget in budgets]))
    points = []
    for budget in budgets:
        shared = noise.budget * generator.normal() + noise.seed * generator.normal(size=seeds)
        for arm, truth in arms.items():
            errors = shared + noise.fit * generator.normal() + noise.run * generator.normal(size=seeds)
            losses = truth.loss(budget / reference) * np.exp(errors)
            points += [Point(arm, budget, seed, float(loss)) for seed, loss in enumerate(losses)]
    return points
