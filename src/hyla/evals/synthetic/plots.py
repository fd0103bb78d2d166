"""Plots of what was learnt from scratch: best scores by length, and scores while learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from hyla.evals.pictures import GREY, figure, finish, legend_below, save, style
from hyla.evals.synthetic.report import LEARNT, PICTURES, Row, mean_curve
from hyla.train.intervals import mean_interval

COLUMNS = 3
"""Panels beside each other."""


def draw(found: Sequence[Row], folder: Path, guesses: Mapping[int, float] | None = None) -> list[Path]:
    """Write the files of `PICTURES`; none without rows. Raises OSError.

    guesses: what always saying one value read is right in (`guesses.best_guess`), by the place of a task.
    """
    if not found:
        return []
    files = [folder / name for name in PICTURES]
    arms = list(dict.fromkeys(row.arm for row in found))
    plot_peaks(found, arms, files[0], guesses or {})
    plot_curves(found, arms, files[1], guesses or {})
    return files


def _panels(count: int, height: float):
    """A figure, and one axes for each of `count` panels."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    made = figure(0.7 + height * rows)
    panels = list(made.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes in panels[count:]:
        axes.remove()
    return made, panels[:count]


def plot_peaks(found: Sequence[Row], arms: Sequence[str], file: Path, guesses: Mapping[int, float]) -> None:
    """A panel for each kind of task: the best score by length, with 95% intervals over seeds, and each seed's as a dot;
    hollow where the rate lies at the grid's edge. Dashed: a guess."""
    kinds = list(dict.fromkeys(row.task for row in found))
    made, panels = _panels(len(kinds), 3.0)
    for axes, kind in zip(panels, kinds):
        lengths = sorted({row.length for row in found if row.task == kind})
        for place, arm in enumerate(arms):
            its = sorted((r for r in found if (r.task, r.arm) == (kind, arm)), key=lambda row: row.length)
            # Beside each other, or equal scores would hide all arms but one.
            at = [lengths.index(row.length) + 0.08 * (place - (len(arms) - 1) / 2) for row in its]
            look = style(place)
            axes.plot(at, [row.peak for row in its], label=arm, **look)
            for x, row in zip(at, its):
                low, high = mean_interval(row.peaks) or (row.peak, row.peak)
                axes.vlines(x, max(0.0, low), min(1.0, high), color=look["color"], alpha=0.6)
                seeds = {"color": look["color"], "markersize": 6, "alpha": 0.8, "linestyle": ""}
                axes.plot([x] * len(row.peaks), row.peaks, marker=".", **seeds)
                if row.is_at_edge:
                    axes.plot([x], [row.peak], **{**look, "markerfacecolor": "white"})
        for length, place in sorted({(row.length, row.place) for row in found if row.task == kind}):
            if place in guesses:
                guess, middle = guesses[place], lengths.index(length)
                axes.hlines(guess, middle - 0.4, middle + 0.4, color=GREY, linewidth=0.8, linestyle="--")
        axes.set(title=kind, xlabel="length, tokens", ylim=(-0.03, 1.03))
        names = {row.length: row.length_name.replace(" ", "\n", 1) for row in found if row.task == kind}
        axes.set_xticks(range(len(lengths)), [names[length] for length in lengths])
        axes.set_xlim(-0.5, len(lengths) - 0.5)
        finish(axes)
    panels[0].set_ylabel("right answers, best score")
    legend_below(made, panels)
    save(made, file)


def plot_curves(found: Sequence[Row], arms: Sequence[str], file: Path, guesses: Mapping[int, float]) -> None:
    """A panel for each task: the mean score of seeds while learning, their lowest and highest. Dashed: a guess."""
    tasks = list(dict.fromkeys((row.place, row.task, row.length_name) for row in found))
    made, panels = _panels(len(tasks), 2.6)
    for axes, task in zip(panels, tasks):
        its = [row for row in found if row.place == task[0]]
        last = max((score.step for row in its for curve in row.curves for score in curve), default=0)
        for row in its:
            steps, shares = mean_curve(row.curves)
            if not steps:  # all seeds diverged before their first score
                continue
            steps, shares = [*steps, last], [*shares, shares[-1]]
            look = {**style(arms.index(row.arm)), "markersize": 4, "markevery": max(1, len(steps) // 6)}
            axes.plot(steps, [mean(values) for values in shares], label=row.arm, **look)
            lows, highs = [min(values) for values in shares], [max(values) for values in shares]
            axes.fill_between(steps, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
        axes.axhline(LEARNT, color=GREY, linewidth=0.8, linestyle=":")
        if task[0] in guesses:
            axes.axhline(guesses[task[0]], color=GREY, linewidth=0.8, linestyle="--")
        axes.set(title=f"{task[1]}, tokens: {task[2]}", xlabel="steps", ylim=(-0.03, 1.03))
        finish(axes)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("right answers")
    legend_below(made, panels)
    save(made, file)
