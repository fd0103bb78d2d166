"""What plots of a study share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyla.study.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#7F7F7F"


def bars(axes: Axes, x: float, score: Interval, color: str) -> None:
    """The interval of a point; nothing where it has no bounds."""
    if score.is_bounded:
        axes.vlines(x, score.low, score.high, color=color, linewidth=1.2)
