"""Laws of loss and FLOPs of one arm, L(C) = e + a (C / reference)^b, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log
from typing import Literal, get_args

import numpy as np

from hyla.errors import ConfigError
from hyla.study.statistics.curves import Curve, Means, OffsetCurve, PlainCurve
from hyla.study.statistics.points import Interval, Point, by_arm

LawKind = Literal["plain", "offset"]
FEWEST_BUDGETS = {"plain": 3, "offset": 4}


@dataclass(frozen=True)
class NotFitted:
    """A law that could not be fitted to an arm's points, and why in words."""

    arm: str
    kind: LawKind
    why: str


@dataclass(frozen=True)
class Law:
    """A fitted law, L(C) = e + a (C / reference)^b with e >= 0 and b < 0; e is 0 where kind is "plain".

    reference: FLOPs, the geometric mean of the arm's budgets: there a is known best. In the form a' C^b, a' is
        a * reference^-b.
    a, e: in the unit of the loss. b: no unit. An end may be infinite: the points do not bound it.
    budgets: FLOPs, ascending. losses: the mean of the seeds' logarithms at each, as a loss.
    is_offset_seen: whether e's interval leaves out zero; where not, the points do not tell this law from the plain one.
    """

    arm: str
    kind: LawKind
    reference: float
    a: Interval
    b: Interval
    e: Interval
    budgets: tuple[float, ...]
    losses: tuple[float, ...]
    is_offset_seen: bool
    curve: Curve = field(repr=False, compare=False)

    def loss(self, flops: float) -> float:
        """The law's loss at some FLOPs."""
        return self.e.estimate + self.a.estimate * (flops / self.reference) ** self.b.estimate

    def predict(self, flops: float, level: float = 0.95) -> Interval:
        """The law's loss at some FLOPs with its interval: of the law's mean, not of a single run. Outside the budgets
        it holds only if the law does."""
        return self.curve.loss(log(flops / self.reference), level)


def fit_law(points: Iterable[Point], kind: LawKind = "plain", level: float = 0.95) -> Law | NotFitted:
    """The law of one arm's points. Fewer than 3 budgets (plain) or 4 (offset), or losses that do not fall, are not
    fitted.

    Sources: the offset form and its trouble, arXiv 2203.15556 (section 3.3) and 2404.10102, whose authors found that
    its first intervals were too narrow by far. Errors are relative ones of a budget's mean, see `curves`; degrees of
    freedom are budgets minus parameters.
    Raises ConfigError for no points, points of several arms, losses that are not above zero, another kind.
    """
    arms = by_arm(points)
    if len(arms) != 1:
        raise ConfigError(f"one law is of one arm, the points are of {len(arms)} ({', '.join(arms)}): use fit_laws")
    return fit_laws([p for b in next(iter(arms.values())).values() for p in b.values()], kind, level)[next(iter(arms))]


def fit_laws(points: Iterable[Point], kind: LawKind = "plain", level: float = 0.95) -> dict[str, Law | NotFitted]:
    """`fit_law` for every arm, in the order of their first points."""
    laws: dict[str, Law | NotFitted] = {}
    for arm, budgets in by_arm(points).items():
        runs = [list(seeds.values()) for seeds in budgets.values()]
        fitted = curve_of(arm, runs, kind)
        laws[arm] = fitted if isinstance(fitted, NotFitted) else _law(arm, kind, level, *fitted)
    return laws


def curve_of(arm: str, budgets: list[list[Point]], kind: LawKind) -> tuple[Means, Curve] | NotFitted:
    """The means of each budget's runs, and the curve through them."""
    if kind not in get_args(LawKind):
        raise ConfigError(f'law {kind!r} is unknown: choose "plain" (a C^b) or "offset" (e + a C^b)')
    if len(budgets) < FEWEST_BUDGETS[kind]:
        return NotFitted(arm, kind, f"{len(budgets)} budgets; this law needs {FEWEST_BUDGETS[kind]}")
    means = means_of(arm, budgets)
    if (slope := PlainCurve(means).slope) >= 0:
        return NotFitted(arm, kind, f"the loss does not fall with FLOPs (exponent {slope:.3g})")
    if kind == "plain":
        return means, PlainCurve(means)
    curve = OffsetCurve(means)
    if not curve.profile.has_exponent:
        return NotFitted(arm, kind, "the loss falls between the first budgets only: no exponent describes that")
    return means, curve


def means_of(arm: str, budgets: list[list[Point]]) -> Means:
    """Means over seeds of log FLOPs and log loss. Raises ConfigError for a loss that is not above zero."""
    for point in (p for runs in budgets for p in runs):
        if point.loss <= 0:
            raise ConfigError(
                f"arm {arm!r} has the loss {point.loss} at {point.budget:g} FLOPs: laws are of losses above zero"
            )
    x = np.array([np.mean([log(p.flops or p.budget) for p in runs]) for runs in budgets])
    y = np.array([np.mean([log(p.loss) for p in runs]) for runs in budgets])
    return Means(x - x.mean(), y, exp(float(x.mean())))


def _law(arm: str, kind: LawKind, level: float, means: Means, curve: Curve) -> Law:
    e = curve.e(level)
    return Law(
        arm=arm,
        kind=kind,
        reference=means.reference,
        a=curve.a(level),
        b=curve.b(level),
        e=e,
        budgets=tuple(float(means.reference * exp(x)) for x in means.x),
        losses=tuple(float(exp(y)) for y in means.y),
        is_offset_seen=e.low > 0,
        curve=curve,
    )
