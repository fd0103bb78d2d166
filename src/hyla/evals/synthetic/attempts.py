"""Which runs a plan has, and at which rate each arm learns each task. No PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean

from hyla.evals.synthetic import AnyTask
from hyla.evals.synthetic.plan import MixerName, Plan, Run
from hyla.evals.synthetic.results import Result
from hyla.train.rate_search import best_rate, is_at_edge, next_rates


@dataclass(frozen=True)
class Attempt:
    """An arm on a task.

    tried: runs that its rate is chosen by, as far as they are known. rate: which one was chosen; None: not yet.
    is_at_edge: it is the lowest or highest that was tried, so a better one may lie outside. counted: runs of all seeds
    at that rate, or at a guess while it is not chosen.
    """

    task: AnyTask
    arm: str
    tried: tuple[Run, ...]
    rate: float | None
    is_at_edge: bool
    counted: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All that are known by now, each once."""
        known = self.tried if self.rate is None else (*self.tried, *self.counted)
        return tuple({run.name: run for run in known}.values())

    @property
    def num_unknown(self) -> int:
        """Runs whose rate is not chosen yet."""
        return len({run.name for run in self.counted} - {run.name for run in self.tried}) if self.rate is None else 0


def attempts(plan: Plan, results: Mapping[str, Result]) -> list[Attempt]:
    """Every arm on every task. results: by the name of their run, in any number."""
    find = _all_rates if plan.search is None else _searched
    return [find(plan, task, arm, layers, results) for task in plan.tasks for arm, layers in plan.arms.items()]


def finished(plan: Plan, read: Callable[[Run], Result | None]) -> dict[str, Result]:
    """By the name of their run, the results that are there; those of a search say which runs come next. read: a run's
    result, or None."""
    results: dict[str, Result] = {}
    asked: set[str] = set()
    while runs := [run for run in known_runs(plan, results) if run.name not in asked]:
        asked |= {run.name for run in runs}
        results |= {run.name: result for run in runs if (result := read(run)) is not None}
    return results


def known_runs(plan: Plan, results: Mapping[str, Result]) -> list[Run]:
    """Of all attempts: those that rates are searched by first, then seed by seed: what is stopped has whole seeds."""
    runs = [run for attempt in attempts(plan, results) for run in attempt.runs]
    searched = None if plan.search is None else plan.search.seed
    return sorted(runs, key=lambda run: (run.seed != searched, run.seed))


def _of_all_seeds(plan: Plan, task: AnyTask, layers: tuple[MixerName, ...], rate: float) -> tuple[Run, ...]:
    return tuple(plan.run(task, layers, rate, seed) for seed in plan.seeds)


def _all_rates(
    plan: Plan, task: AnyTask, arm: str, layers: tuple[MixerName, ...], results: Mapping[str, Result]
) -> Attempt:
    by_rate = {rate: _of_all_seeds(plan, task, layers, rate) for rate in plan.rates}
    tried = tuple(run for runs in by_rate.values() for run in runs)
    if any(run.name not in results for run in tried):
        return Attempt(task, arm, tried, None, False, by_rate[plan.rates[0]])
    ranks = _ranks(by_rate, results)
    best = best_rate(ranks)
    return Attempt(task, arm, tried, best, len(ranks) > 1 and is_at_edge(ranks), by_rate[best])


def _ranks(by_rate: Mapping[float, tuple[Run, ...]], results: Mapping[str, Result]) -> dict[float, float]:
    """0 for the best rate. More seeds that ended early, having learnt all, are better; of equally many the lower mean
    loss of the others, or where there are none, fewer steps."""

    def key(rate: float) -> tuple[int, float]:
        found = [(results[run.name], run.steps) for run in by_rate[rate]]
        others = [result.lowest_loss for result, steps in found if not result.ended_early(steps)]
        return (len(others), mean(others) if others else mean(result.curve[-1].step for result, _ in found))

    return {rate: float(rank) for rank, rate in enumerate(sorted(by_rate, key=lambda rate: (key(rate), rate)))}


def _searched(
    plan: Plan, task: AnyTask, arm: str, layers: tuple[MixerName, ...], results: Mapping[str, Result]
) -> Attempt:
    assert plan.search is not None
    tried: list[Run] = []
    losses: dict[float, float | None] = {}
    while rates := next_rates(plan.rates, plan.search.most_rates, losses):
        tried += (runs := [plan.run(task, layers, rate, plan.search.seed) for rate in rates])
        if any(run.name not in results for run in runs):
            return Attempt(task, arm, tuple(tried), None, False, _of_all_seeds(plan, task, layers, plan.rates[0]))
        losses |= {run.rate: results[run.name].lowest_loss for run in runs}
    best = best_rate(losses)
    return Attempt(task, arm, tuple(tried), best, is_at_edge(losses), _of_all_seeds(plan, task, layers, best))
