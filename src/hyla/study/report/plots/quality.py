"""Tasks, and quality against cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyla.evals.pictures import GREY, figure, finish, legend_below, legend_height, save, style
from hyla.study.report.findings import Findings
from hyla.study.report.formats import flops
from hyla.study.report.intervals import seed_mean
from hyla.study.report.plots.frames import bars
from hyla.study.report.sections.costs import fronts, quality
from hyla.study.report.tasks import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK_COLUMNS = 4


def plot_tasks(found: Findings, file: Path) -> None:
    """A panel for each task: right answers by arm, with 95% intervals; grey where it is not learnt. Dashed: a guess."""
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
        if task.name in found.guesses:
            axes.axvline(found.guesses[task.name].share, color=GREY, linewidth=0.8, linestyle="--")
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
        dashed = "; dashed: always one value read" if found.guesses else ""
        made.suptitle(f"Tasks at {flops(budget)} FLOPs, means over seeds with 95% intervals{dashed}", fontsize=11)
    save(made, file)


def plot_settings(found: Findings, file: Path) -> None:
    """A panel for each task at several settings: right answers by setting, with 95% intervals; pale: not learnt."""
    its = families(found.tasks)
    made = figure(3.4 + legend_height(found.about.arms))
    panels = list(made.subplots(1, len(its), squeeze=False, sharey=True).flat)
    budget = found.top_budget
    assert budget is not None
    for axes, (name, by_setting) in zip(panels, its.items()):
        is_learnt = budget in next(iter(by_setting.values())).learnt
        for place, arm in enumerate(found.about.arms):
            scores = {n: s for n, task in by_setting.items() if (s := task.means.get((arm, budget))) is not None}
            # Beside each other, or equal scores would hide all arms but one.
            xs = [n * 1.03 ** (place - (len(found.about.arms) - 1) / 2) for n in scores]
            look, alpha = style(place), 1.0 if is_learnt else 0.4
            axes.plot(xs, [score.estimate for score in scores.values()], label=arm, alpha=alpha, **look)
            for x, score in zip(xs, scores.values()):
                bars(axes, x, score, look["color"])
        axes.axhline(found.about.learnt_at, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel=name, ylim=(-0.03, 1.03))
        axes.set_xticks(list(by_setting), [str(number) for number in by_setting], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_title(name if is_learnt else f"{name} (not learnt)", fontsize=11)
        finish(axes)
    panels[0].set_ylabel("right answers")
    legend_below(made, panels)
    save(made, file)


def plot_costs(found: Findings, file: Path) -> None:
    """Loss against cache bytes, and against the time of a token where it was measured; ringed: on the front."""
    bits = quality(found)
    shown = {arm: cost for arm, cost in found.costs.items() if arm in bits and cost.cache_bytes is not None}
    is_timed = any(cost.ms_per_token is not None for cost in shown.values())
    made = figure(4.0 + legend_height(found.about.arms))
    panels = np.atleast_1d(made.subplots(1, 2 if is_timed else 1, sharey=True))
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    by_bytes, by_time = fronts(found)
    for arm, cost in shown.items():
        assert cost.cache_bytes is not None
        _cost(panels[0], found, arm, cost.cache_bytes / 2**20, arm in by_bytes)
        if cost.ms_per_token is not None:
            _cost(panels[1], found, arm, cost.ms_per_token, arm in by_time)
    first = next(iter(shown.values()))
    panels[0].set(xscale="log", xlabel=f"cache of one sequence at {first.context:,} tokens, MiB")
    panels[0].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panels[0].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[0].xaxis.set_minor_formatter(NullFormatter())
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
    bars(axes, cost, score, look["color"])
    if is_on_front:
        axes.plot([cost], [score.estimate], "o", markersize=16, markerfacecolor="none", markeredgecolor=GREY)
