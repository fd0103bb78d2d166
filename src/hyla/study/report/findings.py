"""What follows from a study's results: places, comparisons, laws, a recommendation. Computed once, told by others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hyla.errors import ConfigError
from hyla.evals.synthetic import AnyTask
from hyla.evals.synthetic.guesses import Guess, best_guess
from hyla.study.report.about import About
from hyla.study.report.cells import Cell, cells
from hyla.study.report.costs import ArmCost, arm_costs, costs_of
from hyla.study.report.tasks import TaskScores, task_scores
from hyla.study.results import AnyResult, DecodeResult, LanguageResult
from hyla.study.statistics import (
    Comparison,
    Crossing,
    Efficiency,
    Law,
    LawKind,
    NextRuns,
    NotFitted,
    Point,
    Recommendation,
    all_others,
    compare_all,
    crossing,
    efficiency,
    fit_laws,
    next_runs,
    recommend,
)

MEASURE = "bits per byte"
KINDS: tuple[LawKind, ...] = ("plain", "offset")


@dataclass(frozen=True)
class Beside:
    """An arm's law beside the reference's."""

    arm: str
    kind: LawKind
    efficiency: Efficiency | NotFitted
    crossing: Crossing | NotFitted


@dataclass(frozen=True)
class Findings:
    """A study and its results. What is compared and fitted are the runs of valid places only."""

    about: About
    language: tuple[LanguageResult, ...]
    decode: tuple[DecodeResult, ...]

    @cached_property
    def cells(self) -> dict[tuple[str, float], Cell]:
        """By arm and budget."""
        return cells(self.about, self.language)

    @cached_property
    def points(self) -> list[Point]:
        """Test bits per byte of every run in a valid place."""
        return [
            Point(cell.arm, cell.budget, run.run.seed, run.figures.test_bits, run.figures.flops)
            for cell in self.cells.values()
            if cell.is_valid
            for run in cell.runs
            if run.figures.test_bits is not None
        ]

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Arms without any valid place, and why."""
        found = {}
        for arm in self.about.arms:
            its = [cell for (name, _), cell in self.cells.items() if name == arm]
            if not any(cell.is_valid for cell in its):
                marks = dict.fromkeys(mark for cell in its for mark in cell.marks)
                found[arm] = ", ".join(marks) if its else "no runs"
        return found

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every arm against the reference; empty where the reference has no valid place."""
        arms = {point.arm for point in self.points}
        if self.about.reference not in arms or len(arms) < 2:
            return ()
        return compare_all(self.points, "lower", self.about.reference, noise=self.about.noise)

    @cached_property
    def pairs(self) -> tuple[Comparison, ...]:
        """All pairs of arms."""
        return (*self.comparisons, *self.others)

    @cached_property
    def others(self) -> tuple[Comparison, ...]:
        """Pairs without the reference, judged together."""
        return all_others(self.points, "lower", self.about.reference, self.about.noise)

    @cached_property
    def laws(self) -> dict[LawKind, dict[str, Law | NotFitted]]:
        """By kind of law and arm."""
        return {kind: fit_laws(self.points, kind) for kind in KINDS}

    @cached_property
    def beside(self) -> list[Beside]:
        """Laws of each arm and the reference, kind by kind, where both are fitted."""
        found = []
        reference = self.about.reference
        for kind, by_arm in self.laws.items():
            for arm, law in by_arm.items():
                if arm != reference and isinstance(law, Law) and isinstance(by_arm.get(reference), Law):
                    both = (
                        efficiency(self.points, arm, reference, None, kind),
                        crossing(self.points, arm, reference, kind),
                    )
                    found.append(Beside(arm, kind, *both))
        return found

    @cached_property
    def task_tables(self) -> dict[str, AnyTask]:
        """By name, the tasks that the runs' keys say, where they do and this Hyla knows them."""
        tables: dict[str, Any] = {}
        for cell in self.cells.values():
            for name in ("tasks", "test_tasks"):
                tables |= (cell.runs[0].run.rest.get(name) or {}) if cell.runs else {}
        found = {}
        for name, table in tables.items():
            with suppress(ConfigError, ValidationError):
                found[name] = TypeAdapter(AnyTask).validate_python(table)
        return found

    @cached_property
    def guesses(self) -> dict[str, Guess]:
        """By task, what is right without knowing what belongs to what."""
        return {name: best_guess(task) for name, task in self.task_tables.items()}

    @cached_property
    def tasks(self) -> tuple[TaskScores, ...]:
        """Scores of every task."""
        return task_scores(self.about, self.cells)

    @cached_property
    def costs(self) -> dict[str, ArmCost]:
        """What each arm keeps and takes in decoding."""
        largest = {arm: cell for (arm, _), cell in sorted(self.cells.items(), key=lambda item: item[0][1])}
        by_arm = {**largest, **self.top_cells}
        return arm_costs({arm: by_arm[arm] for arm in self.about.arms if arm in by_arm}, self.decode)

    @property
    def without_cost(self) -> list[str]:
        """Arms that are compared, and of which no result says how many bytes they keep."""
        return [arm for arm in dict.fromkeys(point.arm for point in self.points) if arm not in costs_of(self.costs)]

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """None where no two arms can be compared, or one has no cost."""
        if not self.pairs or self.without_cost:
            return None
        measures = {MEASURE: self.pairs, **{task.name: task.pairs for task in self.tasks if task.pairs}}
        return recommend(measures, costs_of(self.costs), self.left_out)

    @cached_property
    def next_runs(self) -> NextRuns | None:
        """What would tell the recommended arm from the best one; if it is the best, from the arm that is furthest from
        it inside the noise."""
        told = self.recommendation
        if told is None:
            return None
        near = [pair for pair in self.pairs if pair.better is None and told.best in (pair.first, pair.second)]
        asked = [pair for pair in near if told.arm in (pair.first, pair.second)] or near
        if not asked:
            return None
        return next_runs(max(asked, key=lambda pair: abs(pair.difference.estimate if pair.difference else 0.0)))

    @cached_property
    def top_budget(self) -> float | None:
        """The largest budget at which most arms have runs: where tasks, positions and costs are shown."""
        counts = {budget: sum((arm, budget) in self.cells for arm in self.about.arms) for budget in self.about.budgets}
        most = max(counts.values(), default=0)
        return max((budget for budget, count in counts.items() if count == most), default=None) if most else None

    @cached_property
    def top_cells(self) -> dict[str, Cell]:
        """By arm, its place at `top_budget`."""
        budget = self.top_budget
        if budget is None:
            return {}
        return {arm: self.cells[arm, budget] for arm in self.about.arms if (arm, budget) in self.cells}

    @property
    def num_rate_runs(self) -> int:
        """Runs with seeds of their own, by which rates are chosen."""
        return sum(result.run.seed not in self.about.seeds for result in self.language)

    def arm_name(self, arm: str) -> str:
        """An arm in a table of `top_budget`, with what marks its place there."""
        cell = self.top_cells.get(arm)
        marks = [mark.partition(":")[0] for mark in cell.marks] if cell is not None else []
        return f"{arm} ({', '.join(marks)})" if marks else arm


def findings_of(about: About, results: Sequence[AnyResult]) -> Findings:
    """Raises ConfigError for runs of two data sets or two results of one run."""
    language = tuple(result for result in results if isinstance(result, LanguageResult))
    decode = tuple(result for result in results if isinstance(result, DecodeResult))
    seen: dict[tuple, str] = {}
    for result in language:
        run = result.run
        place = (run.arm, run.size_name, run.budget, run.rate, run.seed)
        if place in seen:
            other = seen[place]
            raise ConfigError(
                f"{other}.json and {result.name}.json are both arm {run.arm!r}, budget {run.budget:g}, rate "
                f"{run.rate:g}, seed {run.seed}, with other settings beside; keep the results of one study in a folder"
            )
        seen[place] = result.name
        if run.data != language[0].run.data:
            raise ConfigError(
                f"{language[0].name}.json was trained on data {language[0].run.data} and {result.name}.json on "
                f"{run.data}; results of different texts are not compared: keep those of one, run the others again"
            )
    return Findings(about, language, decode)
