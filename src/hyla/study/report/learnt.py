"""What follows from runs that learn tasks from scratch: what is learnt, and how arms compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from hyla.errors import ConfigError
from hyla.evals.synthetic.attempts import attempts, known_runs
from hyla.evals.synthetic.plan import Plan, Run
from hyla.evals.synthetic.report import LEARNT, Row, rows
from hyla.evals.synthetic.results import Result
from hyla.study.report.about import Claim, Published, check_published
from hyla.study.report.formats import NOTHING, interval, named
from hyla.study.report.sections.published import verdict_on
from hyla.study.statistics import Comparison, Interval, Point, compare_all

ALL = "all tasks"
MEASURES = ("best score", "mean score while learning")


@dataclass(frozen=True)
class AboutSynthetic:
    """A study of tasks that are learnt from scratch.

    must_learn: an arm without which a task says nothing; None: any may be the one that learns. learnt_at: mean share of
    right answers above which a task counts as learnt. notes: what a reader has to know of the setting.
    """

    name: str
    question: str
    plan: Plan
    must_learn: str | None = None
    learnt_at: float = LEARNT
    notes: str = ""
    published: tuple[Published, ...] = ()

    def __post_init__(self):
        check_published(self.published, self.plan.arms)
        if self.must_learn is not None and self.must_learn not in self.plan.arms:
            raise ConfigError(f"must_learn names {self.must_learn!r}, and the arms are {', '.join(self.plan.arms)}")


@dataclass(frozen=True)
class Learnt:
    """What the runs say. results: by the name of their run."""

    about: AboutSynthetic
    results: Mapping[str, Result]

    @cached_property
    def runs(self) -> list[Run]:
        """All that are known by now."""
        return known_runs(self.about.plan, self.results)

    @property
    def num_runs(self) -> int:
        """With those that are known by number only, since their rates are not chosen yet."""
        return len(self.runs) + sum(each.num_unknown for each in attempts(self.about.plan, self.results))

    @cached_property
    def rows(self) -> list[Row]:
        """Of arms of which no run is missing."""
        return rows(self.about.plan, self.results)

    @cached_property
    def whole_places(self) -> set[int]:
        """Tasks, by their place among the plan's, of which every arm has a row."""
        arms = {
            place: {row.arm for row in self.rows if row.place == place} for place in range(len(self.about.plan.tasks))
        }
        return {place for place, its in arms.items() if its == set(self.about.plan.arms)}

    @property
    def is_whole(self) -> bool:
        """Whether no run is missing."""
        return len(self.whole_places) == len(self.about.plan.tasks)

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds of tasks that are learnt at their shortest length, as far as is known by now."""
        found = []
        for kind in dict.fromkeys(task.kind for task in self.about.plan.tasks):
            length = min(task.length for task in self.about.plan.tasks if task.kind == kind)
            shortest = [row for row in self.rows if row.task == kind and row.length == length]
            judges = [row for row in shortest if self.about.must_learn in (None, row.arm) and not row.diverged]
            if any(row.peak > self.about.learnt_at for row in judges):
                found.append(kind)
        return found

    @cached_property
    def comparisons(self) -> dict[tuple[str, str], tuple[Comparison, ...]]:
        """By kind (or `ALL`) and measure, all pairs of arms, lengths together: those of which every arm is finished."""
        found = {}
        for kind in [*self.kinds, *([ALL] if len(self.kinds) > 1 else [])]:
            its = self._compared(kind)
            if len({row.arm for row in its}) > 1:
                for measure in MEASURES:
                    found[kind, measure] = compare_all(self._points(its, measure), "higher")
        return found

    def _points(self, its: list[Row], measure: str) -> list[Point]:
        """A task of one length takes the place of a budget: arms are compared where they did the same."""
        found = []
        for row in its:
            shares = (
                row.peaks if measure == MEASURES[0] else [self._while_learning(row, s) for s in range(len(row.curves))]
            )
            place = float(row.place + 1)
            found += [Point(row.arm, place, seed, share) for seed, share in zip(self.about.plan.seeds, shares)]
        return found

    def _while_learning(self, row: Row, seed: int) -> float:
        """The mean score over all steps of the plan; a run that ended early keeps its last one."""
        by_step = {score.step: score.accuracy for score in row.curves[seed]}
        every, steps = self.about.plan.score_every, self.about.plan.steps
        last, shares = 0.0, []
        for step in range(every, steps + 1, every):
            last = by_step.get(step, last)
            shares.append(last)
        return mean(shares) if shares else next(iter(by_step.values()), 0.0)

    def edges(self, kind: str) -> set[str]:
        """Arms whose rate at a task of that kind (or at any, `ALL`) is the lowest or highest that was tried; of rows
        that are compared."""
        return {row.arm for row in self._compared(kind) if row.is_at_edge}

    def _compared(self, kind: str) -> list[Row]:
        """Rows of learnt tasks of which every arm is finished, without those of which a seed diverged."""
        return [
            row
            for row in self.rows
            if row.place in self.whole_places
            and row.task in self.kinds
            and kind in (row.task, ALL)
            and not row.diverged
        ]

    def judge(self, claim: Claim) -> tuple[str, str]:
        """A published claim beside ours: by the best score, with what the curve says."""
        kind = claim.task or (ALL if len(self.kinds) > 1 else next(iter(self.kinds), ALL))
        told, verdict = [], "not learnt here" if claim.task and claim.task not in self.kinds else "not compared here"
        for measure in MEASURES:
            for pair in self.comparisons.get((kind, measure), ()):
                if {pair.first, pair.second} == {claim.better, claim.worse} and pair.difference is not None:
                    told.append(f"{measure}: {oriented(pair, claim.better)}")
                    verdict = verdict_on(claim, pair.better) if measure == MEASURES[0] else verdict
        edges = self.edges(kind) & {claim.better, claim.worse}
        if told and edges:
            verdict += f"; rate of {named(sorted(edges))} at the edge"
        if told and not self.is_whole:
            verdict += "; so far"
        return "; ".join(told) or NOTHING, verdict


def oriented(pair: Comparison, first: str) -> str:
    """The difference as `first` minus the other, judged together."""
    found = pair.family if pair.family is not None else pair.difference
    if found is None or pair.first == first:
        return interval(found, "+.1%")
    return interval(Interval(-found.estimate, -found.high, -found.low), "+.1%")
