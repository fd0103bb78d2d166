"""Losses with their laws, and differences to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyla.evals.pictures import GREY, figure, finish, legend_below, legend_height, save, style
from hyla.study.report.findings import Findings
from hyla.study.report.plots.frames import bars, budget_ticks
from hyla.study.statistics import Comparison, Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 24
"""Points of a law's line."""


def plot_losses(found: Findings, file: Path) -> None:
    """Left: all seeds' losses by FLOPs, each arm's law and its 95% interval; hollow: marked places. Right: the same
    minus the reference's law, where differences can be seen."""
    reference = found.laws["plain"].get(found.about.reference)
    base = reference if isinstance(reference, Law) else None
    made = figure(4.6 + legend_height(found.about.arms))
    panels = np.atleast_1d(made.subplots(1, 2 if base is not None else 1))
    for axes, law in zip(panels, (None, base)):
        _losses(axes, found, (lambda at: 0.0) if law is None else law.loss)
        budget_ticks(axes, found.about.budgets)
        finish(axes)
    panels[0].set_ylabel("bits per byte of the test text")
    if base is not None:
        panels[1].set_ylabel(f"minus the law of {found.about.reference}")
    made.suptitle("Loss against FLOPs, laws with 95% intervals (thin: with offset; hollow: marked)", fontsize=11)
    legend_below(made, panels[0])
    save(made, file)


def _losses(axes: Axes, found: Findings, base: Callable[[float], float]) -> None:
    for place, arm in enumerate(found.about.arms):
        look = style(place)
        for cell in (cell for (name, _), cell in found.cells.items() if name == arm):
            fill = look["color"] if cell.is_valid else "white"
            ys = [bits - base(cell.flops) for bits in cell.bits.values()]
            axes.plot([cell.flops] * len(ys), ys, **{**look, "linestyle": "none", "markerfacecolor": fill})
        axes.plot([], [], label=arm, **look)
        for kind in ("plain", "offset"):
            law = found.laws[kind].get(arm)
            if isinstance(law, Law):
                _law(axes, law, look, base)


def _law(axes: Axes, law: Law, look: dict, base: Callable[[float], float]) -> None:
    grid = [float(at) for at in np.geomspace(law.budgets[0], law.budgets[-1], GRID)]
    under = [base(at) for at in grid]
    line = [law.loss(at) - zero for at, zero in zip(grid, under)]
    width = 1.5 if law.kind == "plain" else 0.8
    axes.plot(grid, line, color=look["color"], linestyle=look["linestyle"], linewidth=width)
    if law.kind == "plain":
        bands = [law.predict(at) for at in grid]
        if all(band.is_bounded for band in bands):
            low, high = ([getattr(b, end) - zero for b, zero in zip(bands, under)] for end in ("low", "high"))
            axes.fill_between(grid, low, high, color=look["color"], alpha=0.12, linewidth=0)


def plot_differences(found: Findings, file: Path) -> None:
    """Left: each arm's difference to the reference, its interval and the one that the verdict goes by. Right: by
    budget."""
    about = found.about
    compared = [one for one in found.comparisons if one.difference is not None]
    if about.is_ablation:
        compared.sort(key=lambda one: one.difference.estimate if one.difference else 0.0)
    has_budgets = len(about.budgets) > 1 and not about.is_ablation
    made = figure(max(3.2, 1.6 + 0.4 * len(compared)))
    left, *right = np.atleast_1d(made.subplots(1, 2 if has_budgets else 1))
    for row, one in enumerate(compared):
        look = style(about.arms.index(one.first))
        assert one.difference is not None
        for bounds, width in ((one.family, 1.0), (one.difference, 3.0)):
            if bounds is not None and bounds.is_bounded:
                left.hlines(row, bounds.low, bounds.high, color=look["color"], linewidth=width)
        left.plot([one.difference.estimate], [row], **look)
    left.axvline(0, color=GREY, linewidth=0.8)
    left.set_yticks(range(len(compared)), [one.first for one in compared])
    left.set_ylim(len(compared) - 0.4, -0.6)
    left.set_xlabel(f"bits per byte minus {about.reference}'s\n(left of 0: better; thin: judged together)")
    finish(left)
    for axes in right:
        _by_budget(axes, found, compared)
    made.suptitle(f"Differences to {about.reference}, equal seeds and FLOPs, 95% intervals", fontsize=11)
    save(made, file)


def _by_budget(axes: Axes, found: Findings, compared: Sequence[Comparison]) -> None:
    for place, one in enumerate(compared):
        look = style(found.about.arms.index(one.first))
        factor = 1.05 ** (place - (len(compared) - 1) / 2)
        axes.plot(
            [b * factor for b in one.by_budget],
            [score.estimate for score in one.by_budget.values()],
            label=one.first,
            **look,
        )
        for budget, score in one.by_budget.items():
            bars(axes, budget * factor, score, look["color"])
    axes.axhline(0, color=GREY, linewidth=0.8)
    budget_ticks(axes, found.about.budgets)
    axes.set_ylabel("difference, bits per byte")
    finish(axes)
