"""Plots of a study: losses with their laws, differences, tasks, quality against cost, positions, curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyla.evals.pictures import figure, finish, legend_below, save, style
from hyla.study.report.cells import Cell
from hyla.study.report.findings import Findings
from hyla.study.report.formats import flops
from hyla.study.report.intervals import seed_mean
from hyla.study.report.sections.costs import differs, fronts, quality
from hyla.study.report.sections.positions import by_position, differences_by_position
from hyla.study.statistics import Comparison, Interval, Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#7F7F7F"
TASK_COLUMNS = 4
GRID = 24
"""Points of a law's line."""


def draw(found: Findings, folder: Path) -> dict[str, Path]:
    """Write a PNG for each plot that has something to show; by the plot's name, its file. Raises OSError."""
    if not any(cell.bits for cell in found.cells.values()):
        return {}
    plots: dict[str, tuple[bool, Callable[[Findings, Path], None]]] = {
        "losses": (len({cell.budget for cell in found.cells.values()}) > 1, plot_losses),
        "differences": (any(one.difference for one in found.comparisons), plot_differences),
        "tasks": (bool(found.tasks), plot_tasks),
        "costs": (differs(found) and any(cost.cache_bytes for cost in found.costs.values()), plot_costs),
        "positions": (any(by_position(cell) for cell in found.top_cells.values()), plot_positions),
        "curves": (any(run.figures.curve for cell in found.top_cells.values() for run in cell.runs), plot_curves),
    }
    files = {}
    for name, (is_wanted, plot) in plots.items():
        if is_wanted:
            files[name] = folder / f"{name}.png"
            plot(found, files[name])
    return files


def _bars(axes: Axes, x: float, score: Interval, color: str) -> None:
    """The interval of a point; nothing where it has no bounds."""
    if score.is_bounded:
        axes.vlines(x, score.low, score.high, color=color, linewidth=1.2)


def plot_losses(found: Findings, file: Path) -> None:
    """Left: all seeds' losses by FLOPs, each arm's law and its 95% interval; hollow: marked places. Right: the same
    minus the reference's law, where differences can be seen."""
    reference = found.laws["plain"].get(found.about.reference)
    base = reference if isinstance(reference, Law) else None
    made = figure(4.8)
    panels = np.atleast_1d(made.subplots(1, 2 if base is not None else 1))
    for axes, law in zip(panels, (None, base)):
        _losses(axes, found, (lambda at: 0.0) if law is None else law.loss)
        axes.set(xscale="log", xlabel="FLOPs of training")
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
            _bars(axes, budget * factor, score, look["color"])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xscale="log", xlabel="FLOPs of training", ylabel="difference, bits per byte")
    finish(axes)


def plot_tasks(found: Findings, file: Path) -> None:
    """A panel for each task: right answers by arm, with 95% intervals; grey where it is not learnt."""
    budget = found.top_budget
    columns = min(TASK_COLUMNS, len(found.tasks))
    rows = -(-len(found.tasks) // columns)
    made = figure(0.9 + (1.0 + 0.3 * len(found.about.arms)) * rows)
    panels = list(made.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, task in zip(panels, found.tasks):
        is_learnt = budget in task.learnt
        for place, arm in enumerate(found.about.arms):
            score = task.means.get((arm, budget)) if budget is not None else None
            if score is not None:
                color = style(place)["color"] if is_learnt else GREY
                axes.plot([score.estimate], [place], **{**style(place), "color": color})
                if score.is_bounded:
                    axes.hlines(place, max(0.0, score.low), min(1.0, score.high), color=color)
        axes.axvline(found.about.learnt_at, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(
            title=task.name if is_learnt else f"{task.name}\n(not learnt)", xlim=(-0.03, 1.03), xlabel="right answers"
        )
        axes.title.set_fontsize(10)
        finish(axes)
    for axes in panels[len(found.tasks) :]:
        axes.remove()
    panels[0].set_yticks(range(len(found.about.arms)), list(found.about.arms))
    panels[0].set_ylim(len(found.about.arms) - 0.5, -0.5)
    if budget is not None:
        made.suptitle(f"Tasks at {flops(budget)} FLOPs, means over seeds with 95% intervals", fontsize=11)
    save(made, file)


def plot_costs(found: Findings, file: Path) -> None:
    """Loss against cache bytes, and against the time of a token where it was measured; ringed: on the front."""
    bits = quality(found)
    shown = {arm: cost for arm, cost in found.costs.items() if arm in bits and cost.cache_bytes is not None}
    is_timed = any(cost.ms_per_token is not None for cost in shown.values())
    made = figure(4.2)
    panels = np.atleast_1d(made.subplots(1, 2 if is_timed else 1, sharey=True))
    by_bytes, by_time = fronts(found)
    for arm, cost in shown.items():
        _cost(panels[0], found, arm, cost.cache_bytes, arm in by_bytes)
        if cost.ms_per_token is not None:
            _cost(panels[1], found, arm, cost.ms_per_token, arm in by_time)
    first = next(iter(shown.values()))
    panels[0].set(xscale="log", xlabel=f"cache of one sequence at {first.context:,} tokens, bytes")
    panels[0].set_ylabel("bits per byte of the test text")
    if is_timed:
        timed = next(cost.timed_context for cost in shown.values() if cost.ms_per_token is not None)
        panels[1].set_xlabel(f"decoding at {timed:,} tokens, ms per token")
    for axes in panels:
        finish(axes)
    made.suptitle("Quality against cost (both: lower is better; ringed: on the front; hollow: marked)", fontsize=11)
    legend_below(made, list(panels))
    save(made, file)


def _cost(axes: Axes, found: Findings, arm: str, cost: float | None, is_on_front: bool) -> None:
    assert cost is not None and found.top_budget is not None
    look = {**style(found.about.arms.index(arm)), "linestyle": "none", "markersize": 8}
    score = seed_mean(list(found.cells[arm, found.top_budget].bits.values()))
    assert score is not None
    fill = look["color"] if found.cells[arm, found.top_budget].is_valid else "white"
    axes.plot([cost], [score.estimate], label=arm, **{**look, "markerfacecolor": fill})
    _bars(axes, cost, score, look["color"])
    if is_on_front:
        axes.plot([cost], [score.estimate], "o", markersize=16, markerfacecolor="none", markeredgecolor=GREY)


def plot_positions(found: Findings, file: Path) -> None:
    """Left: bits per byte by position. Right: the difference to the reference, with 95% intervals."""
    cells = {arm: cell for arm, cell in found.top_cells.items() if by_position(cell)}
    reference = cells.get(found.about.reference)
    made = figure(4.2)
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
            _bars(axes, x, score, look["color"])


def plot_curves(found: Findings, file: Path) -> None:
    """Training loss by tokens at the largest budget, the mean over seeds."""
    made = figure(4.6)
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
