"""Two fitted laws beside each other: how many times the FLOPs one needs to do as well, and where they cross."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hyla.study.statistics.laws import LawKind, NotFitted
from hyla.study.statistics.points import Interval, Point


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
    flops: the point of meeting, in FLOPs; None where there is none. Ends at the range's ends mean: or beyond.
    words: a sentence for the report.
    """

    first: str
    second: str
    kind: LawKind
    status: Literal["crosses", "none", "outside", "partly", "undecided"]
    flops: Interval | None
    words: str


def efficiency(
    points: Iterable[Point], first: str, second: str, flops: float | None = None, kind: LawKind = "plain"
) -> Efficiency | NotFitted:
    """The ratio at `flops` (default: the largest budget that both arms have)."""
    raise NotImplementedError


def crossing(points: Iterable[Point], first: str, second: str, kind: LawKind = "plain") -> Crossing | NotFitted:
    """Where the arms' laws meet."""
    raise NotImplementedError
