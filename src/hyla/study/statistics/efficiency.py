"""Two fitted laws beside each other: how many times the FLOPs one needs to do as well, and where they cross.

Both laws go through the means of the budgets that the arms have in common. A budget's errors in the two arms are not
independent (the same sizes, the same order of the data), so their covariance is taken from the residuals. Intervals are
by inverting a t test, as Fieller's (1954) for a ratio: a ratio r is in the interval if log L_first(C) minus
log L_second(r C) is within the noise of zero. Nothing is drawn, and an interval without an end is shown as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import exp, inf, log
from typing import Literal

import numpy as np

from hyla.errors import ConfigError
from hyla.study.statistics.curves import Curve, Means
from hyla.study.statistics.distributions import t_quantile
from hyla.study.statistics.laws import LawKind, NotFitted, curve_of
from hyla.study.statistics.points import Interval, Point, by_arm

LARGEST_RATIO = 1000.0
"""Ratios of FLOPs above it, or below its inverse, are given as infinite, or 0."""
FARTHEST = 1e6
"""How many times the largest budget, or less than the smallest, a crossing outside the range is named."""
STEPS = 401
"""Places at which a curve is looked at before its ends are searched."""

Status = Literal["crosses", "none", "outside", "partly", "undecided"]


@dataclass(frozen=True)
class Efficiency:
    """How many times the FLOPs arm `second` needs to reach what `first` reaches with `flops` (over 1: first is better).

    is_extrapolated: `flops`, or `ratio` times `flops`, lie outside the measured budgets.
    """

    first: str
    second: str
    kind: LawKind
    flops: float
    ratio: Interval
    is_extrapolated: bool


@dataclass(frozen=True)
class Crossing:
    """Where two laws meet.

    status: "crosses" each arm is better somewhere in the measured range; `flops` is where they meet, with its interval
            "none" one arm is better in the whole range
            "outside" the same, and the laws meet outside the range: do not extrapolate
            "partly" one arm is better in a part of the range; in the rest they cannot be told apart
            "undecided" they cannot be told apart anywhere in the range
    flops: where they meet, in FLOPs: for "crosses" with its interval, for "outside" without (infinite ends), else None.
    words: a sentence for the report.
    """

    first: str
    second: str
    kind: LawKind
    status: Status
    flops: Interval | None
    words: str


def efficiency(
    points: Iterable[Point], first: str, second: str, flops: float | None = None, kind: LawKind | None = None
) -> Efficiency | NotFitted:
    """The ratio at `flops` (default: the largest budget that both arms have), with its 95% interval.

    kind: None takes the offset law where either arm's e is told from zero, and the plain one otherwise: a plain law
    through points of another has the wrong slope at the ends of the range.
    Raises ConfigError for an arm without points or FLOPs that are not above zero.
    """
    two = _two_laws(points, first, second, kind)
    if isinstance(two, NotFitted):
        return two
    if flops is not None and flops <= 0:
        raise ConfigError(f"an efficiency at {flops} FLOPs cannot be had: give FLOPs above zero")
    top = two.reference * exp(two.range[1])
    x = np.array([two.range[1] if flops is None else log(flops / two.reference)])
    shifts = np.linspace(-log(LARGEST_RATIO), log(LARGEST_RATIO), STEPS)

    def gap(shift: np.ndarray) -> np.ndarray:
        return two.gap(np.broadcast_to(x, shift.shape), x + shift)[0]

    def margin(shift: np.ndarray) -> np.ndarray:
        values, reach = two.gap(np.broadcast_to(x, shift.shape), x + shift)
        return np.abs(values) - reach

    estimate = _zero(gap, shifts)
    low, high = _around(margin, shifts, estimate)
    there = float(x[0]) + np.array([0.0, estimate])
    is_outside = bool((there < two.range[0] - 1e-9).any() or (there > two.range[1] + 1e-9).any())
    ratio = Interval(*(exp(end) for end in (estimate, low, high)))
    return Efficiency(first, second, two.kind, top if flops is None else flops, ratio, is_outside)


def crossing(points: Iterable[Point], first: str, second: str, kind: LawKind | None = None) -> Crossing | NotFitted:
    """Where the arms' laws meet, by 95% intervals at every place; kind as for `efficiency`. Raises ConfigError for an
    arm without points."""
    two = _two_laws(points, first, second, kind)
    if isinstance(two, NotFitted):
        return two
    x = np.linspace(*two.range, STEPS)
    values, reach = two.gap(x, x)
    first_is_better, second_is_better = values < -reach, values > reach
    if first_is_better.any() and second_is_better.any():
        return _crossing_within(two, x)
    if not (first_is_better.any() or second_is_better.any()):
        return two.crossing("undecided", None, "cannot be told apart anywhere in the measured range")
    winner = first if first_is_better.any() else second
    if not (first_is_better.all() or second_is_better.all()):
        return two.crossing(
            "partly", None, _part(winner, two.reference * np.exp(x), first_is_better | second_is_better)
        )
    meeting = two.meeting()
    if meeting is None:
        return two.crossing("none", None, f"do not cross within the measured range: {winner} is better in all of it")
    words = (
        f"would cross at {meeting:.3g} FLOPs, outside the measured range: do not extrapolate; {winner} is better in it"
    )
    return two.crossing("outside", Interval(meeting, 0.0, inf), words)


def _part(winner: str, flops: np.ndarray, is_clear: np.ndarray) -> str:
    """In words, the part of the range in which the winner is clearly better."""
    clear = flops[is_clear]
    where = f"from {clear.min():.3g} to {clear.max():.3g} FLOPs"
    if is_clear[0] and is_clear[-1]:
        where = "at both ends of the measured range"
    return f"cannot be told apart in all of the measured range: {winner} is better {where} only"


def _crossing_within(two: _TwoLaws, x: np.ndarray) -> Crossing:
    """A crossing with a better arm on either side; it lies where neither is clearly better."""
    estimate = _zero(lambda places: two.gap(places, places)[0], x)

    def margin(places: np.ndarray) -> np.ndarray:
        values, reach = two.gap(places, places)
        return np.abs(values) - reach

    low, high = _around(margin, x, estimate)
    ends = Interval(*(two.reference * exp(end) for end in (estimate, max(low, x[0]), min(high, x[-1]))))
    words = f"cross at {ends.estimate:.3g} FLOPs (95%: {ends.low:.3g} to {ends.high:.3g})"
    return two.crossing("crosses", ends, words)


@dataclass(frozen=True)
class _TwoLaws:
    """Two curves. Places x are log(FLOPs / reference), the first curve's; the second's own lie `step` lower.
    range: the x in which the arms were measured."""

    first: str
    second: str
    kind: LawKind
    curves: tuple[Curve, Curve]
    step: float
    reference: float
    range: tuple[float, float]

    def gap(self, x: np.ndarray, other_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log L_first(x) - log L_second(other_x) [n], and how far from zero is still within the noise [n]."""
        mine, others = self.curves
        value, pull = mine.at(x)
        other_value, other_pull = others.at(other_x - self.step)
        a, b = mine.residuals, others.residuals
        variance = (
            (a @ a) * (pull**2).sum(1) + (b @ b) * (other_pull**2).sum(1) - 2 * (a @ b) * (pull * other_pull).sum(1)
        )
        error = np.sqrt(np.maximum(variance, 0) / mine.df)
        return value - other_value, t_quantile(0.95, mine.df) * error

    def meeting(self) -> float | None:
        """FLOPs at which the laws meet, within a factor of FARTHEST of the range."""
        x = np.linspace(self.range[0] - log(FARTHEST), self.range[1] + log(FARTHEST), 4 * STEPS)
        place = _zero(lambda places: self.gap(places, places)[0], x)
        return self.reference * exp(place) if abs(place) < inf else None

    def crossing(self, status: Status, flops: Interval | None, words: str) -> Crossing:
        """A crossing of these two."""
        return Crossing(self.first, self.second, self.kind, status, flops, f"{self.first} and {self.second} {words}")


def _two_laws(points: Iterable[Point], first: str, second: str, kind: LawKind | None) -> _TwoLaws | NotFitted:
    """Both curves through the budgets in common, on one axis."""
    points = list(points)
    if kind is None:
        offset = _two_laws(points, first, second, "offset")
        if isinstance(offset, _TwoLaws) and any(curve.e(0.95).low > 0 for curve in offset.curves):
            return offset
        kind = "plain"
    arms = by_arm(points)
    for arm in (first, second):
        if arm not in arms:
            raise ConfigError(f"arm {arm!r} has no results; arms with results: {', '.join(arms) or 'none'}")
    shared = sorted(arms[first].keys() & arms[second].keys())
    fitted: list[tuple[Means, Curve]] = []
    for arm in (first, second):
        one = curve_of(arm, [list(arms[arm][budget].values()) for budget in shared], kind)
        if isinstance(one, NotFitted):
            return one
        fitted.append(one)
    (means, mine), (other_means, others) = fitted
    step = log(other_means.reference / means.reference)
    lowest = min(means.x[0], other_means.x[0] + step)
    highest = max(means.x[-1], other_means.x[-1] + step)
    return _TwoLaws(first, second, kind, (mine, others), step, means.reference, (float(lowest), float(highest)))


def _zero(values: Callable[[np.ndarray], np.ndarray], places: np.ndarray) -> float:
    """Where values pass zero between two of `places`, which ascend; inf (all are below zero) or -inf where they do not.
    Of several such places the one nearest to the middle."""
    signs = np.sign(values(places))
    turns = np.flatnonzero(signs[:-1] != signs[1:])
    if not len(turns):
        return inf if signs[0] < 0 else -inf
    i = int(turns[np.abs(turns - len(places) / 2).argmin()])
    return _edge(lambda x: np.sign(values(x)) != signs[i], float(places[i]), float(places[i + 1]))


def _around(margin: Callable[[np.ndarray], np.ndarray], places: np.ndarray, start: float) -> tuple[float, float]:
    """The ends of the stretch around `start` in which the margin is not above zero; infinite where it goes on."""
    below, above = places[places < start][::-1], places[places > start]
    return _end(margin, below, start, -inf), _end(margin, above, start, inf)


def _end(margin: Callable[[np.ndarray], np.ndarray], outwards: np.ndarray, start: float, beyond: float) -> float:
    """Going from `start` along `outwards`, where the margin first rises above zero; `beyond` where it never does."""
    is_out = margin(outwards) > 0 if len(outwards) else np.zeros(0, bool)
    if not is_out.any():
        return beyond
    i = int(is_out.argmax())
    inside, outside = (start if i == 0 else float(outwards[i - 1])), float(outwards[i])
    return outside if abs(inside) == inf else _edge(lambda x: margin(x) > 0, inside, outside)


def _edge(is_beyond: Callable[[np.ndarray], np.ndarray], inside: float, outside: float) -> float:
    """The place between the two at which `is_beyond` becomes true."""
    for _ in range(5):
        places = np.linspace(inside, outside, 33)[1:]
        i = int(is_beyond(places[:-1]).argmax()) if is_beyond(places[:-1]).any() else len(places) - 1
        inside, outside = (inside if i == 0 else float(places[i - 1])), float(places[i])
    return (inside + outside) / 2
