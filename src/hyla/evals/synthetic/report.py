"""What the runs of a plan say: one row for each task and arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from hyla.evals.synthetic.learning import Result
from hyla.evals.synthetic.plan import Plan, Run

LEARNT = 0.9
"""Share of right answers from which on a task counts as learnt, for the steps that it took."""


@dataclass(frozen=True)
class Row:
    """An arm on a task, at the rate whose training loss fell lowest (the mean over seeds; the test split has no say).

    is_at_edge: that rate is the lowest or highest of several, so a better one may lie outside. peaks: the best score of
    each seed. steps: to 90% right, of each seed; None: never.
    """

    task: str
    length: int
    arm: str
    rate: float
    is_at_edge: bool
    peaks: list[float]
    steps: list[int | None]
    by_length: dict[str, float]

    @property
    def peak(self) -> float:
        return mean(self.peaks)


def rows(plan: Plan, results: Mapping[str, Result]) -> list[Row]:
    """results: by the name of their run. Arms of which a run is missing have no row."""
    found = []
    runs = plan.runs()
    for task in plan.tasks:
        for arm, layers in plan.arms.items():
            its_runs = [run for run in runs if run.task == task and run.layers == layers]
            if all(run.name in results for run in its_runs):
                found.append(_row(plan, arm, its_runs, results))
    return found


def _row(plan: Plan, arm: str, its_runs: Sequence[Run], results: Mapping[str, Result]) -> Row:
    by_rate = {rate: [results[run.name] for run in its_runs if run.rate == rate] for rate in plan.rates}
    best = min(plan.rates, key=lambda rate: mean(min(s.loss for s in result.curve) for result in by_rate[rate]))
    chosen, task = by_rate[best], its_runs[0].task
    return Row(
        task.kind,
        task.length,
        arm,
        best,
        len(plan.rates) > 1 and best in (min(plan.rates), max(plan.rates)),
        [result.peak for result in chosen],
        [result.steps_to(LEARNT) for result in chosen],
        {str(n): mean(result.by_length[str(n)] for result in chosen) for n in plan.test_lengths},
    )


def cells(row: Row) -> list[str]:
    """A row as texts, under `titles`."""
    rate = f"{row.rate:g}" + (" (edge)" if row.is_at_edge else "")
    peak = f"{row.peak:.1%}"
    if len(row.peaks) > 1:
        peak += f" ({min(row.peaks):.1%} to {max(row.peaks):.1%})"
    steps = ", ".join("never" if step is None else f"{step:,}" for step in row.steps)
    return [row.task, str(row.length), row.arm, rate, peak, steps, *(f"{x:.1%}" for x in row.by_length.values())]


def titles(plan: Plan) -> list[str]:
    """Of the columns."""
    lengths = [f"right at {length}" for length in plan.test_lengths]
    return ["task", "length", "arm", "rate", "right, best score", f"steps to {LEARNT:.0%}", *lengths]


def markdown(plan: Plan, found: Sequence[Row]) -> str:
    """The report as a page."""
    lines = [titles(plan), ["---"] * len(titles(plan)), *(cells(row) for row in found)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    several = f"{len(plan.seeds)} seeds: the mean, in brackets the lowest and highest"
    seeds = several if len(plan.seeds) > 1 else "1 seed"
    return f"""# Learnt from scratch

{table}

Share of right answers on {plan.test_examples} test examples that training never has; {seeds}. Of {len(plan.rates)} \
rates the one whose training loss fell lowest; "edge": it is the lowest or highest of them, so a better one may lie \
outside. At most {plan.steps:,} steps of {plan.examples_per_step} examples, {plan.optimizer}, \
{plan.sizes.num_heads} heads of {plan.sizes.head_dim}.
"""
