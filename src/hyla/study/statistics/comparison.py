"""Two arms, or several, by paired seeds at equal budgets: the mean difference, its interval, a verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hyla.study.statistics.points import Better, Interval, Point


@dataclass(frozen=True)
class Comparison:
    """Arm `first` against arm `second`.

    difference: mean over common budgets of the mean over paired seeds of (first - second), in the measure's unit, with
        its own 95% interval.
    family: the same difference with the interval that decides the verdict: wider, for the number of comparisons made
        together (Holm). It leaves out zero exactly where the verdict names an arm.
    p: of no difference, two-sided, before Holm. p_family: after it.
    by_budget: FLOPs -> difference there with its own 95% interval.
    trend: how much the difference changes when FLOPs grow tenfold; None with fewer than two budgets.
    noise: standard deviation of a pair's difference within a budget.
    better: the better arm's name, or None: inside the noise.
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
    pairs: dict[float, int]
    """Budget -> number of paired seeds."""
    better: str | None
    verdict: str


def compare(points: Iterable[Point], first: str, second: str, measure: Better = "lower") -> Comparison:
    """One comparison that was planned alone."""
    raise NotImplementedError


def compare_all(
    points: Iterable[Point], measure: Better = "lower", reference: str | None = None, leave_out: Iterable[str] = ()
) -> tuple[Comparison, ...]:
    """All pairs of arms, or every arm (first) against `reference` (second), judged together: the chance that any of
    them is called better though none is, is at most 5% (Holm 1979). Arms in `leave_out` are not compared."""
    raise NotImplementedError
