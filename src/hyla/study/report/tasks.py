"""Scores of the tasks that stood in training, beside the loss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hyla.study.report.about import About
from hyla.study.report.cells import Cell
from hyla.study.report.intervals import seed_mean
from hyla.study.statistics import Comparison, Interval, Point, all_others, compare_all

RULE = """A task counts as learnt at a budget where the mean of some arm is over {share:.0%}; of a task at several \
settings ("turns-2", "turns-8"), where the mean of {reference} is so at the lowest. Elsewhere the table says "not \
learnt", and nothing is compared."""


@dataclass(frozen=True)
class TaskScores:
    """One task. means: by arm and budget, over seeds. learnt: budgets at which it counts as learnt."""

    name: str
    reference: str
    means: Mapping[tuple[str, float], Interval]
    points: tuple[Point, ...]
    learnt: frozenset[float]

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every arm against the reference, where the task is learnt; higher is better."""
        arms = {point.arm for point in self._counted}
        if self.reference not in arms or len(arms) < 2:
            return ()
        return compare_all(self._counted, "higher", self.reference)

    @cached_property
    def pairs(self) -> tuple[Comparison, ...]:
        """All pairs of arms, where the task is learnt: those with the reference as in `comparisons`, the others judged
        together."""
        return (*self.comparisons, *all_others(self._counted, "higher", self.reference))

    @property
    def _counted(self) -> list[Point]:
        return [point for point in self.points if point.budget in self.learnt]


def setting(name: str) -> tuple[str, int]:
    """A task's name without the number at its end, and that number (0: none).

    >>> setting("turns-8"), setting("recall")
    (('turns', 8), ('recall', 0))
    """
    found = re.fullmatch(r"(.+?)[-_@ ](\d+)", name)
    return (found[1], int(found[2])) if found else (name, 0)


def task_scores(about: About, cells: Mapping[tuple[str, float], Cell]) -> tuple[TaskScores, ...]:
    """All tasks of which any run has a score, in the order of the files."""
    names = list(dict.fromkeys(name for cell in cells.values() for run in cell.runs for name in run.figures.tasks))
    means = {name: _means(name, cells) for name in names}
    found = []
    for name in names:
        its = [other for other in names if setting(other)[0] == setting(name)[0]]
        lowest = means[min(its, key=lambda other: setting(other)[1])]
        judges = (about.reference,) if len(its) > 1 else about.arms
        learnt = {at for (arm, at), score in lowest.items() if arm in judges and score.estimate > about.learnt_at}
        found.append(TaskScores(name, about.reference, means[name], _points(name, cells), frozenset(learnt)))
    return tuple(found)


def families(tasks: Sequence[TaskScores]) -> dict[str, dict[int, TaskScores]]:
    """Tasks at several settings: by their name, by setting (rising)."""
    found: dict[str, dict[int, TaskScores]] = {}
    for task in sorted(tasks, key=lambda task: setting(task.name)[1]):
        name, number = setting(task.name)
        if number:
            found.setdefault(name, {})[number] = task
    return {name: by_setting for name, by_setting in found.items() if len(by_setting) > 1}


def change_per_doubling(by_setting: Mapping[int, TaskScores], arm: str, budget: float) -> Interval | None:
    """How much an arm's difference to the reference changes when the setting doubles: a line for each seed, its slope,
    and the mean of slopes with a 95% interval, which holds though one model answers at all settings. Of valid places
    alone; None where there are none."""
    scores = {
        (number, point.arm, point.seed): point.loss
        for number, task in by_setting.items()
        for point in task.points
        if point.budget == budget
    }
    reference = next(iter(by_setting.values())).reference
    seeds = sorted({seed for _, _, seed in scores})
    slopes = []
    for seed in seeds:
        both = [(scores.get((n, arm, seed)), scores.get((n, reference, seed))) for n in by_setting]
        differences = [mine - theirs for mine, theirs in both if mine is not None and theirs is not None]
        if len(differences) == len(by_setting):
            slopes.append(float(np.polyfit(np.log2(list(by_setting)), differences, 1)[0]))
    return seed_mean(slopes)


def _means(name: str, cells: Mapping[tuple[str, float], Cell]) -> dict[tuple[str, float], Interval]:
    found = {}
    for place, cell in cells.items():
        score = seed_mean([run.figures.tasks[name] for run in cell.runs if name in run.figures.tasks])
        if score is not None:
            found[place] = (
                Interval(score.estimate, max(0.0, score.low), min(1.0, score.high)) if score.is_bounded else score
            )
    return found


def _points(name: str, cells: Mapping[tuple[str, float], Cell]) -> tuple[Point, ...]:
    """Of valid places."""
    return tuple(
        Point(cell.arm, cell.budget, run.run.seed, run.figures.tasks[name], run.figures.flops)
        for cell in cells.values()
        if cell.is_valid
        for run in cell.runs
        if name in run.figures.tasks
    )
