"""What plots of a study share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyla.study.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def budget_ticks(axes: Axes, budgets: Sequence[float]) -> None:
    """A logarithmic axis of FLOPs that names the budgets: within a decade, the usual labels run into each other."""
    axes.set(xscale="log", xlabel="FLOPs of training")
    axes.set_xticks(list(budgets), [f"{budget:.3g}".replace("e+", "e") for budget in budgets], minor=False)
    axes.set_xticks([], minor=True)


def bars(axes: Axes, x: float, score: Interval, color: str) -> None:
    """The interval of a point; nothing where it has no bounds."""
    if score.is_bounded:
        axes.vlines(x, score.low, score.high, color=color, linewidth=1.2)
