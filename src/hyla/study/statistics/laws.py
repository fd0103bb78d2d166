"""Laws of loss and FLOPs of one arm, L(C) = e + a (C / reference)^b, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hyla.study.statistics.points import Interval, Point

LawKind = Literal["plain", "offset"]


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
    a, e: in the unit of the loss. b: no unit.
    budgets: FLOPs, ascending. losses: mean of the seeds' logarithms at each, as a loss.
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

    def loss(self, flops: float) -> float:
        """The law's loss at some FLOPs."""
        raise NotImplementedError

    def predict(self, flops: float, level: float = 0.95) -> Interval:
        """The law's loss at some FLOPs with its interval: of the law, not of a single run."""
        raise NotImplementedError


def fit_law(points: Iterable[Point], kind: LawKind = "plain", level: float = 0.95) -> Law | NotFitted:
    """The law of one arm's points; fewer than 3 budgets (plain) or 4 (offset) are not fitted.

    Raises ConfigError for points of several arms, or for losses that are not above zero.
    """
    raise NotImplementedError


def fit_laws(points: Iterable[Point], kind: LawKind = "plain", level: float = 0.95) -> dict[str, Law | NotFitted]:
    """`fit_law` for every arm, in the order of their first points."""
    raise NotImplementedError
