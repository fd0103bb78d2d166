"""Power, computed before (or after) a study: which difference it would find, and which run would decide it next.

The power is that of `compare`: noise of pairs is normal and alike at all budgets, as a plan has to assume. With one
budget the test is Student's and its power the not central t's. With several, degrees of freedom are themselves
estimated (`contrasts`); there the variances of the budgets are drawn 4,096 times from a stream that is fixed, and for
each draw the chance is exact, which leaves an error of less than 0.005.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import erfc, sqrt

import numpy as np

from hyla.errors import ConfigError
from hyla.study.statistics.comparison import ALPHA, Comparison
from hyla.study.statistics.contrasts import degrees_of_freedom
from hyla.study.statistics.distributions import rejection, t_quantile

DRAWS = 4096
MOST_SEEDS = 64
"""Seeds at one budget beyond which nothing is planned."""
WANTED = 0.8


@dataclass(frozen=True)
class NextRuns:
    """What would decide a comparison that is inside the noise.

    more_seeds: budget -> seeds to add there (each is one run of either arm).
    first: the budget at which to begin; None where nothing is to be done, or nothing within reach decides it.
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


def power(difference: float, noise: float, seeds: int, budgets: int = 1, comparisons: int = 1, arms: int = 2) -> float:
    """Chance that a true mean difference is found by `compare`, or by `compare_all` among so many comparisons.

    difference, noise: in one unit; noise: standard deviation of a pair's difference, above zero.
    seeds: paired seeds at each of the budgets, two or more. arms: from which the noise is estimated. Among several
    comparisons it is the chance where no other one is decided, Holm's hardest case. Raises ConfigError for a plan
    without a test.
    """
    if noise <= 0 or seeds < 2 or budgets < 1 or comparisons < 1 or arms < 2:
        raise ConfigError(
            f"no power without a test: noise {noise} (above zero), seeds {seeds} (2 or more), budgets {budgets}, "
            f"comparisons {comparisons} (1 or more), arms {arms} (2 or more)"
        )
    return _power(difference / noise, (seeds,) * budgets, ALPHA / comparisons, arms)


def smallest_difference(
    noise: float, seeds: int, budgets: int = 1, comparisons: int = 1, wanted: float = WANTED, arms: int = 2
) -> float:
    """The smallest true difference that is found with power `wanted`, in the unit of `noise`."""
    if not 0.1 <= wanted < 1:
        raise ConfigError(f"a power of {wanted} cannot be planned: give 0.1 to 0.99")
    low, high = 0.0, noise
    while power(high, noise, seeds, budgets, comparisons, arms) < wanted:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        is_low = power(middle, noise, seeds, budgets, comparisons, arms) < wanted
        low, high = (middle, high) if is_low else (low, middle)
    return high


def next_runs(
    comparison: Comparison, costs: Mapping[float, float] | None = None, assumed: float | None = None
) -> NextRuns:
    """The cheapest runs after which the comparison is decided with 80% power: seeds are added one by one, each where it
    takes most variance away for its FLOPs.

    costs: budget -> FLOPs of one run (default: the budget). assumed: the true difference (default: the one seen,
    which is as uncertain as the comparison). The noise of these seeds is taken to be estimated from the two arms alone,
    so where all arms tell it, fewer would do. Raises ConfigError where a compared budget has no cost.
    """
    two = f"{comparison.first} and {comparison.second}"
    if comparison.difference is None or comparison.family is None or comparison.noise is None:
        return NextRuns({}, None, 0.0, 0.0, 0.0, f"{two}: two seeds of both arms at one budget come first")
    true = abs(comparison.difference.estimate if assumed is None else assumed)
    if comparison.better is not None:
        return NextRuns({}, None, 0.0, true, 1.0, f"{two}: decided, {comparison.verdict}")
    price = {budget: budget if costs is None else costs.get(budget) for budget in comparison.pairs}
    if missing := [f"{budget:g}" for budget, flops in price.items() if flops is None]:
        raise ConfigError(f"no cost of a run at the budgets {', '.join(missing)}: give the FLOPs of each")
    known = {budget: float(flops) for budget, flops in price.items() if flops is not None}
    if not (true and comparison.noise):
        return NextRuns({}, None, 0.0, true, 0.0, f"{two}: no difference was seen, and no seeds would show one")
    seeds, first = _seeds(dict(comparison.pairs), known, true / comparison.noise, 1 - comparison.family.level)
    chance = _power(true / comparison.noise, tuple(seeds.values()), 1 - comparison.family.level)
    if first is None or chance < WANTED:
        words = f"{two}: a difference of {true:.3g} would not be shown by {MOST_SEEDS} seeds at every budget"
        return NextRuns({}, None, 0.0, true, chance, words)
    more = {budget: count - comparison.pairs[budget] for budget, count in seeds.items()}
    more = {budget: count for budget, count in more.items() if count}
    total = sum(2 * known[budget] * count for budget, count in more.items())
    runs = ", ".join(f"{count} more at {budget:.3g} FLOPs" for budget, count in more.items())
    words = (
        f"{two}: if the difference is {true:.3g}, seeds of both arms ({runs}; {total:.3g} FLOPs in all) show it with "
        f"{chance:.0%} power; begin at {first:.3g}"
    )
    return NextRuns(more, first, total, true, chance, words)


def _seeds(
    seeds: dict[float, int], costs: dict[float, float], effect: float, alpha: float
) -> tuple[dict[float, int], float | None]:
    """Seeds by budget that give the wanted power, or as many as are planned at most; and where the first was added."""
    first = None
    while min(seeds.values()) < MOST_SEEDS:
        error = sqrt(sum(1 / count for count in seeds.values())) / len(seeds)
        likely = rejection(effect / error, sum(seeds.values()) - len(seeds), alpha)
        if likely >= WANTED and _power(effect, tuple(seeds.values()), alpha) >= WANTED:
            break
        open_budgets = [budget for budget, count in seeds.items() if count < MOST_SEEDS]
        budget = max(open_budgets, key=lambda b: 1 / (seeds[b] * (seeds[b] + 1) * costs[b]))
        seeds[budget] += 1
        first = first or budget
    return seeds, first


def _power(effect: float, seeds: tuple[int, ...], alpha: float, arms: int = 2) -> float:
    """Chance of a verdict; effect: the difference in standard deviations of a pair. seeds: of each budget."""
    error = sqrt(sum(1 / count for count in seeds)) / len(seeds)
    if len(seeds) == 1:
        return rejection(effect / error, (arms - 1) * (seeds[0] - 1), alpha)
    edges = _edges(seeds, alpha, arms) / error
    outside = [erfc((t - effect / error) / sqrt(2)) + erfc((t + effect / error) / sqrt(2)) for t in edges]
    return float(np.mean(outside) / 2)


@lru_cache(maxsize=64)
def _edges(seeds: tuple[int, ...], alpha: float, arms: int) -> np.ndarray:
    """How far from zero a mean difference must lie for a verdict [DRAWS], for drawn variances of budgets."""
    counts = np.array(seeds)
    free = (arms - 1) * (counts - 1)
    # A stream that NumPy keeps as it is (NEP 19): plans have the same figures in every version.
    variances = np.random.RandomState(0).chisquare(free, size=(DRAWS, len(seeds))) / free
    parts = variances / counts / len(seeds) ** 2
    df = degrees_of_freedom(parts, free)
    places = np.linspace(1 / free.sum(), 1 / free.min(), 65)
    logs = np.log([t_quantile(1 - alpha, 1 / place) for place in places])
    return np.exp(np.interp(1 / df, places, logs)) * np.sqrt(parts.sum(1))
