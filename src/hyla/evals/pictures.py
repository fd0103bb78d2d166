"""How plots look: 900 pixels wide, in colours that the colour-blind tell apart, each with its own marker and line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0
"""Inches."""
DPI = 100
LEGEND_LETTERS = 110
"""That fit beside each other."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's (Color Universal Design, 2008), without yellow."""
GREY = "#7F7F7F"
"""Of lines that no arm is."""
MARKERS = "os^DvPX*"
LINES = ("-", "--", "-.", ":")


def figure(height: float) -> Figure:
    """An empty picture of so many inches. It draws without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def style(place: int) -> dict[str, Any]:
    """Of the line of an arm, by its place among the arms."""
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[(place + place // len(COLORS)) % len(MARKERS)],
        "linestyle": LINES[place // 2 % len(LINES)],
        "markersize": 5,
    }


def finish(axes: Axes) -> None:
    """A quiet frame."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def legend_columns(labels: Collection[str]) -> int:
    """As many beside each other as fit."""
    fitting = LEGEND_LETTERS // (8 + max(map(len, labels), default=0))
    return max(1, min(fitting, len(labels), 5))


def legend_height(labels: Collection[str]) -> float:
    """Inches that `legend_below` takes."""
    return 0.22 * -(-len(labels) // legend_columns(labels))


def legend_below(made: Figure, source: Axes | Sequence[Axes]) -> None:
    """One legend for the picture, each label of the axes once."""
    found: dict[str, Any] = {}
    for axes in [source] if not isinstance(source, Sequence) else source:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    columns = legend_columns(found)
    made.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False)


def save(made: Figure, file: Path) -> None:
    """As PNG. Nothing of the file depends on when it was made."""
    made.savefig(file, dpi=DPI, metadata={"Software": None})
