"""Positions, layers and training curves of the largest budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyla.evals.pictures import GREY, figure, finish, legend_below, legend_height, save, style
from hyla.study.report.cells import Cell
from hyla.study.report.findings import Findings
from hyla.study.report.plots.frames import bars
from hyla.study.report.sections.positions import TITLES, by_position, differences_by_position, layer_means
from hyla.study.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_positions(found: Findings, file: Path) -> None:
    """Left: bits per byte by position. Right: the difference to the reference, with 95% intervals."""
    cells = {arm: cell for arm, cell in found.top_cells.items() if by_position(cell)}
    reference = cells.get(found.about.reference)
    made = figure(4.0 + legend_height(found.about.arms))
    left, right = made.subplots(1, 2)
    firsts = sorted({first for cell in cells.values() for first in by_position(cell)})
    for place, arm in enumerate(found.about.arms):
        if arm in cells:
            _line(left, by_position(cells[arm]), firsts, place, 0.0, arm, has_bars=False)
            if reference is not None and arm != found.about.reference:
                shift = 0.06 * (place - len(found.about.arms) / 2)
                _line(right, differences_by_position(cells[arm], reference), firsts, place, shift, None, has_bars=True)
    right.axhline(0, color=GREY, linewidth=0.8)
    left.set_ylabel("bits per byte")
    right.set_ylabel(f"bits per byte minus {found.about.reference}'s")
    for axes in (left, right):
        axes.set_xlabel("bytes read before, from")
        axes.set_xticks(range(len(firsts)), [f"{first:,}" for first in firsts])
        finish(axes)
    made.suptitle("Bits per byte by position", fontsize=11)
    legend_below(made, left)
    save(made, file)


def _line(
    axes: Axes,
    scores: dict[int, Interval],
    firsts: Sequence[int],
    place: int,
    shift: float,
    label: str | None,
    *,
    has_bars: bool,
) -> None:
    look = style(place)
    xs = [firsts.index(first) + shift for first in scores]
    axes.plot(xs, [score.estimate for score in scores.values()], label=label, **look)
    if has_bars:
        for x, score in zip(xs, scores.values()):
            bars(axes, x, score, look["color"])


def plot_layers(found: Findings, file: Path) -> None:
    """A panel for each figure inside the layers, by layer, means over seeds."""
    names = [name for name in TITLES if any(layer_means(cell, name) for cell in found.top_cells.values())]
    made = figure(3.2 + legend_height(found.about.arms))
    panels = list(made.subplots(1, len(names), squeeze=False).flat)
    for axes, name in zip(panels, names):
        for place, arm in enumerate(found.about.arms):
            means = layer_means(found.top_cells[arm], name) if arm in found.top_cells else []
            if means:
                axes.plot(range(1, len(means) + 1), means, label=arm, **style(place))
        axes.set(xlabel="layer", ylim=(0, None))
        axes.locator_params(axis="x", integer=True)
        axes.set_title(TITLES[name], fontsize=10)
        finish(axes)
    legend_below(made, panels)
    save(made, file)


def plot_curves(found: Findings, file: Path) -> None:
    """Training loss by tokens at the largest budget, the mean over seeds."""
    made = figure(4.4 + legend_height(found.about.arms))
    axes = made.subplots()
    lowest, highest = [], []
    for place, arm in enumerate(found.about.arms):
        cell = found.top_cells.get(arm)
        points = _curve(cell) if cell is not None else []
        if points:
            axes.plot(*zip(*points), label=arm, **{**style(place), "markevery": max(1, len(points) // 8)})
            losses = [loss for _, loss in points]
            lowest.append(min(losses))
            highest.append(max(losses[len(losses) // 8 :]))
    axes.set(xlabel="tokens, millions", ylabel="training loss, nats per token")
    if lowest and max(highest) > min(lowest):
        # The first steps would press everything else together.
        axes.set_ylim(min(lowest) - 0.03 * (max(highest) - min(lowest)), max(highest))
    axes.set_title("Training at the largest budget, means over seeds", fontsize=11)
    finish(axes)
    legend_below(made, axes)
    save(made, file)


def _curve(cell: Cell) -> list[tuple[float, float]]:
    """(millions of tokens, loss) where all seeds have a loss."""
    tables = [{tokens: loss for _, tokens, loss in run.figures.curve if loss is not None} for run in cell.runs]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    return [(tokens / 1e6, sum(by[tokens] for by in tables) / len(tables)) for tokens in shared]
