"""Power, computed before (or after) a study: which difference it would find, and which run would decide it next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyla.study.statistics.comparison import Comparison


@dataclass(frozen=True)
class NextRuns:
    """What would decide a comparison that is inside the noise.

    more_seeds: budget -> seeds to add there (each is one run of either arm).
    first: the budget at which to begin; None where nothing within reach decides it.
    total_flops: FLOPs of all of them, both arms.
    assumed: the difference that is taken to be true, in the measure's unit.
    power: chance of a verdict with them.
    words: a sentence for the report.
    """

    more_seeds: dict[float, int]
    first: float | None
    total_flops: float
    assumed: float
    power: float
    words: str


def power(difference: float, noise: float, seeds: int, budgets: int = 1, comparisons: int = 1) -> float:
    """Chance that a true difference is found by `compare` (noise: sd of a pair's difference)."""
    raise NotImplementedError


def smallest_difference(noise: float, seeds: int, budgets: int = 1, comparisons: int = 1, wanted: float = 0.8) -> float:
    """The smallest true difference that is found with power `wanted`, in the unit of `noise`."""
    raise NotImplementedError


def next_runs(
    comparison: Comparison, costs: Mapping[float, float] | None = None, assumed: float | None = None
) -> NextRuns:
    """The cheapest runs after which the comparison is decided with 80% power.

    costs: budget -> FLOPs of one run (default: the budget). assumed: the true difference (default: the one seen).
    """
    raise NotImplementedError
