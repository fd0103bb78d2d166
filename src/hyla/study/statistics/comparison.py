"""Two arms, or several, by paired seeds at equal budgets: the mean difference, its interval, a verdict.

The model: at budget b and seed s the arms' results share what the seed brings (the order of the data), which cancels
in their difference d[b, s] = delta_b + noise, noise independent from run to run, with a variance of each budget's own
(and where a study says so, the same in all arms: then all of them tell how large it is). What is judged is the mean of
delta_b over the budgets of the study, each counting the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from math import log10, sqrt

import numpy as np

from hyla.errors import ConfigError
from hyla.study.statistics.contrasts import ROUNDING, Contrast, Scatter, by_seeds, contrast, own_scatter
from hyla.study.statistics.distributions import f_tail
from hyla.study.statistics.points import Arms, Better, Interval, NoiseOf, Point, by_arm

ALPHA = 0.05
"""The chance, at most, that any of the comparisons made together names a better arm where none is."""
INSIDE = "inside the noise"


@dataclass(frozen=True)
class Comparison:
    """Arm `first` against arm `second`. All but names and `verdict` are None or empty where they were not compared.

    measure: which of two values is the better one.
    difference: mean over common budgets of the mean over paired seeds of (first - second), in the measure's unit, with
        its own 95% interval.
    family: the same difference with the interval that decides the verdict: wider, for the number of comparisons made
        together (Holm). It leaves out zero exactly where the verdict names an arm.
    p: of no difference, two-sided, before Holm. p_family: after it.
    by_budget: FLOPs -> difference there with its own 95% interval, from that budget's seeds alone.
    trend: how much the difference changes when FLOPs grow tenfold; None with fewer than two budgets.
    noise: standard deviation of a pair's difference within a budget, pooled over budgets.
    together: p of "a seed's differences at several budgets have nothing in common" (an F test, where all budgets have
        the same seeds, else None). If it is small, budgets are not independent and the verdict is surer than it should
        be; `by_seeds` is not.
    by_seeds: the same difference with its own 95% interval from one value per seed, its mean over budgets: it holds
        whatever a seed's differences have in common, and is mostly wider for it; no verdict goes by it.
    pairs: FLOPs -> number of paired seeds; budgets with fewer than two are left out everywhere.
    better: the better arm's name, or None: inside the noise, or not compared.
    verdict: "A is better", "B is better", "inside the noise", or "not compared: why".
    """

    first: str
    second: str
    measure: Better
    difference: Interval | None
    family: Interval | None
    p: float | None
    p_family: float | None
    by_budget: dict[float, Interval]
    trend: Interval | None
    noise: float | None
    together: float | None
    by_seeds: Interval | None
    pairs: dict[float, int]
    better: str | None
    verdict: str


def compare(points: Iterable[Point], first: str, second: str, measure: Better = "lower") -> Comparison:
    """One comparison that was planned alone. Raises ConfigError for an arm without points."""
    arms = by_arm(points)
    return _judged([_Pair(_known(arms, first), _known(arms, second), arms)], measure)[0]


def compare_all(
    points: Iterable[Point],
    measure: Better = "lower",
    reference: str | None = None,
    leave_out: Iterable[str] = (),
    noise: NoiseOf = "pair",
) -> tuple[Comparison, ...]:
    """All pairs of arms, or every arm (first) against `reference` (second), judged together: the chance that any of
    them is called better though none is, is at most 5% (Holm 1979). Arms in `leave_out` are not compared.

    noise: "arms": at each budget the variance is what arms and seeds leave of all arms that have the pair's seeds, with
    (arms - 1) (seeds - 1) degrees of freedom. Raises ConfigError for an unknown reference.
    """
    out = set(leave_out)
    arms = {arm: budgets for arm, budgets in by_arm(points).items() if arm not in out}
    if reference is None:
        names = list(combinations(arms, 2))
    else:
        names = [(arm, _known(arms, reference)) for arm in arms if arm != reference]
    return tuple(_judged([_Pair(first, second, arms, noise) for first, second in names], measure))


def all_others(
    points: Iterable[Point], measure: Better, reference: str, noise: NoiseOf = "pair"
) -> tuple[Comparison, ...]:
    """All pairs of arms without `reference`, judged together: beside `compare_all` with that reference, so that no pair
    has two verdicts. Noise as there, that of `reference` included."""
    arms = by_arm(points)
    names = [(first, second) for first, second in combinations(arms, 2) if reference not in (first, second)]
    return tuple(_judged([_Pair(first, second, arms, noise) for first, second in names], measure))


class _Pair:
    """Two arms' paired differences: values[b]: float64 [paired seeds of budget b]; scatters[b]: of one of them."""

    def __init__(self, first: str, second: str, arms: Arms, noise: NoiseOf = "pair"):
        self.first, self.second = first, second
        self.values: dict[float, np.ndarray] = {}
        self.scatters: dict[float, Scatter] = {}
        self.seeds: list[list[int]] = []
        mine, others = arms[first], arms[second]
        for budget in sorted(mine.keys() & others.keys()):
            seeds = sorted(mine[budget].keys() & others[budget].keys())
            if len(seeds) > 1:
                self.values[budget] = np.array([mine[budget][s].loss - others[budget][s].loss for s in seeds])
                self.scatters[budget] = (
                    own_scatter(self.values[budget]) if noise == "pair" else pooled_scatter(arms, budget, seeds)
                )
                self.seeds.append(seeds)

    def mean(self) -> Contrast:
        """The mean over budgets."""
        return self._weighted(np.full(len(self.values), 1 / len(self.values)))

    def at(self, budget: float) -> Interval:
        """The difference at one budget."""
        return contrast([self.values[budget]], np.ones(1), [self.scatters[budget]]).interval()

    def _weighted(self, weights: np.ndarray) -> Contrast:
        return contrast(list(self.values.values()), weights, list(self.scatters.values()))

    def trend(self) -> Interval | None:
        """The slope over the logarithm (base 10) of FLOPs, least squares."""
        if len(self.values) < 2:
            return None
        x = np.array([log10(budget) for budget in self.values])
        x -= x.mean()
        return self._weighted(x / (x @ x)).interval()

    def noise(self) -> float:
        """The standard deviation within budgets."""
        squares = sum(scatter.variance * scatter.df for scatter in self.scatters.values())
        return sqrt(squares / sum(scatter.df for scatter in self.scatters.values()))

    def table(self) -> np.ndarray | None:
        """Differences [budgets, seeds], where several budgets have the same seeds."""
        if len(self.values) < 2 or any(seeds != self.seeds[0] for seeds in self.seeds):
            return None
        return np.stack(list(self.values.values()))

    def together(self) -> float | None:
        """p of the F test of seeds in the table of budgets and seeds."""
        table = self.table()
        if table is None:
            return None
        table -= table.mean(1, keepdims=True)
        budgets, seeds = table.shape
        common = budgets * float((table.mean(0) ** 2).sum()) / (seeds - 1)
        rest = float(((table - table.mean(0)) ** 2).sum()) / ((seeds - 1) * (budgets - 1))
        return f_tail(common / rest, seeds - 1, (seeds - 1) * (budgets - 1)) if rest > ROUNDING**2 else None


def pooled_scatter(arms: Arms, budget: float, seeds: list[int]) -> Scatter:
    """Of the difference of two arms: twice what arms and seeds leave of the results of all arms that have the seeds.
    Arms with the same results count once: they are one model, and say nothing twice."""
    rows = [
        [budgets[budget][seed].loss for seed in seeds]
        for budgets in arms.values()
        if set(seeds) <= budgets.get(budget, {}).keys()
    ]
    table = np.array(rows)
    _, first = np.unique(np.round(table / ROUNDING), axis=0, return_index=True)
    rest = table[np.sort(first)]
    if len(rest) == 1:
        return Scatter(0.0, len(seeds) - 1)
    rest = rest - rest.mean(1, keepdims=True)
    rest -= rest.mean(0)
    df = (len(rest) - 1) * (len(seeds) - 1)
    if np.ptp(rest) <= ROUNDING:
        return Scatter(0.0, df)
    return Scatter(2 * float((rest**2).sum()) / df, df)


def _judged(pairs: list[_Pair], measure: Better) -> list[Comparison]:
    """Holm's procedure: the smallest p against ALPHA / m, the next against ALPHA / (m - 1), until one is above."""
    if measure not in ("lower", "higher"):
        raise ConfigError(f'measure {measure!r} is unknown; say which values are better, "lower" or "higher"')
    means = {i: pair.mean() for i, pair in enumerate(pairs) if pair.values}
    verdicts: dict[int, Comparison] = {}
    still_rejecting, p_family, alpha = True, 0.0, ALPHA
    for rank, i in enumerate(sorted(means, key=lambda i: means[i].p)):
        if still_rejecting:
            alpha = ALPHA / (len(means) - rank)
            still_rejecting = means[i].p < alpha
        p_family = max(p_family, min(1.0, means[i].p * (len(means) - rank)))
        verdicts[i] = _verdict(pairs[i], means[i], measure, alpha, p_family)
    return [verdicts[i] if i in verdicts else _not_compared(pair, measure) for i, pair in enumerate(pairs)]


def _verdict(pair: _Pair, mean: Contrast, measure: Better, alpha: float, p_family: float) -> Comparison:
    """A comparison whose p was held against `alpha`."""
    better = None
    if mean.p < alpha:
        better = pair.first if (mean.estimate < 0) == (measure == "lower") else pair.second
    return Comparison(
        first=pair.first,
        second=pair.second,
        measure=measure,
        difference=mean.interval(),
        family=mean.interval(1 - alpha),
        p=mean.p,
        p_family=p_family,
        by_budget={budget: pair.at(budget) for budget in pair.values},
        trend=pair.trend(),
        noise=pair.noise(),
        together=pair.together(),
        by_seeds=None if (table := pair.table()) is None else by_seeds(table).interval(),
        pairs={budget: len(v) for budget, v in pair.values.items()},
        better=better,
        verdict=f"{better} is better" if better is not None else INSIDE,
    )


def _not_compared(pair: _Pair, measure: Better) -> Comparison:
    """A comparison of arms without two paired seeds at any budget."""
    why = "not compared: at no budget have both arms results of the same two seeds"
    return Comparison(
        pair.first, pair.second, measure, None, None, None, None, {}, None, None, None, None, {}, None, why
    )


def _known(arms: Arms, arm: str) -> str:
    """The arm, where it has points."""
    if arm not in arms:
        raise ConfigError(f"arm {arm!r} has no results to compare; arms with results: {', '.join(arms) or 'none'}")
    return arm
