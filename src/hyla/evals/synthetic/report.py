"""What the runs of a plan say: one row for each task and arm, and one table for each kind of task. No PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from hyla.evals.pages import share, table
from hyla.evals.synthetic import AnyTask
from hyla.evals.synthetic.attempts import Attempt, attempts
from hyla.evals.synthetic.guesses import best_guess
from hyla.evals.synthetic.plan import Plan
from hyla.evals.synthetic.results import Result, Score
from hyla.evals.synthetic.turns import Turns

LEARNT = 0.9
"""Share of right answers from which on a task counts as learnt, for the steps that it took."""
PICTURES = {"peaks.png": "best scores by length", "curves.png": "scores while learning, the mean over seeds"}

GUESSES = """Rows in brackets, dashed in the plots: what is right if always that one of the values read so far is said \
(the best of the first, the last and the most frequent one). An arm near it has learnt which tokens are values, not \
which belongs to what."""


@dataclass(frozen=True)
class Row:
    """An arm on a task, at the rate that counts (`rates_of`).

    is_at_edge: that rate is the lowest or highest of several, so a better one may lie outside. peaks: the best score of
    each seed. steps: to 90% right, of each seed; None: never. curves: all scores of each seed. place: of the task among
    the plan's. turns: of a conversation; None: the task is none. diverged: seeds whose loss was no number any more;
    such a row is compared with nothing.
    """

    task: str
    length: int
    arm: str
    rate: float
    is_at_edge: bool
    peaks: list[float]
    steps: list[int | None]
    by_length: dict[str, float]
    curves: list[list[Score]]
    place: int
    turns: int | None = None
    diverged: int = 0

    @property
    def peak(self) -> float:
        return mean(self.peaks)

    @property
    def length_name(self) -> str:
        return length_name(self.length, self.turns)


def length_name(length: int, turns: int | None) -> str:
    """Tokens, and turns of a conversation."""
    return f"{length:,}" if turns is None else f"{length:,} ({turns} turns)"


def _turns(task: AnyTask) -> int | None:
    return task.turns if isinstance(task, Turns) else None


def rows(plan: Plan, results: Mapping[str, Result]) -> list[Row]:
    """results: by the name of their run. Arms of which a run is missing have no row."""
    return [
        _row(plan, attempt, [results[run.name] for run in attempt.counted])
        for attempt in attempts(plan, results)
        if attempt.rate is not None and all(run.name in results for run in attempt.counted)
    ]


def _row(plan: Plan, attempt: Attempt, counted: Sequence[Result]) -> Row:
    task = attempt.task
    assert attempt.rate is not None
    return Row(
        task.kind,
        task.length,
        attempt.arm,
        attempt.rate,
        attempt.is_at_edge,
        [result.peak for result in counted],
        [result.steps_to(LEARNT) for result in counted],
        {str(n): mean(result.by_length.get(str(n), 0.0) for result in counted) for n in plan.test_lengths},
        [result.curve for result in counted],
        plan.tasks.index(task),
        _turns(task),
        sum(result.diverged for result in counted),
    )


def mean_curve(curves: Sequence[Sequence[Score]]) -> tuple[list[int], list[list[float]]]:
    """(steps at which any seed was scored, the shares of all seeds at each). A run that ended, because it was good
    enough or diverged, keeps its last score; one that was not scored at a step has its score before it."""
    steps = sorted({score.step for curve in curves for score in curve})
    at_each = []
    for step in steps:
        before = [[score.accuracy for score in curve if score.step <= step] for curve in curves]
        at_each.append([scores[-1] if scores else 0.0 for scores in before])
    return steps, at_each


def cells(row: Row) -> list[str]:
    """A row as texts, under `titles`."""
    rate = f"{row.rate:g}" + (" (edge)" if row.is_at_edge else "") + _diverged(row)
    steps = ", ".join("never" if step is None else f"{step:,}" for step in row.steps)
    lengths = (f"{x:.1%}" for x in row.by_length.values())
    return [row.task, row.length_name, row.arm, rate, share(row.peaks), steps, *lengths]


def _diverged(row: Row) -> str:
    return f" ({row.diverged} of {len(row.peaks)} seeds diverged)" if row.diverged else ""


def guesses(plan: Plan) -> dict[int, float]:
    """By the place of a task: what is right if always one of the values that were read is said, 0 to 1."""
    return {place: best_guess(task).share for place, task in enumerate(plan.tasks)}


def guess_cells(plan: Plan) -> list[list[str]]:
    """For each task a row under `titles`: what is right if always one of the values that were read is said."""
    lines = []
    for task in plan.tasks:
        guess, length = best_guess(task), length_name(task.length, _turns(task))
        line = [task.kind, length, f"({guess.value} value)", "", f"{guess.share:.1%}"]
        lines.append(line + [""] * (len(titles(plan)) - len(line)))
    return lines


def titles(plan: Plan) -> list[str]:
    """Of the columns."""
    lengths = [f"right at {length}" for length in plan.test_lengths]
    return ["task", "length", "arm", "rate", "right, best score", f"steps to {LEARNT:.0%}", *lengths]


def by_length(found: Sequence[Row]) -> str:
    """For each kind of task that has several lengths, each once, a table of best scores: arms and lengths."""
    parts = []
    for kind in dict.fromkeys(row.task for row in found):
        its = [row for row in found if row.task == kind]
        lengths = {row.length: row.length_name for row in sorted(its, key=lambda row: row.length)}
        if len({row.place for row in its}) == len(lengths) > 1:
            lines = [[kind, *(f"tokens: {name}" for name in lengths.values())]]
            for arm in dict.fromkeys(row.arm for row in its):
                at = {row.length: row for row in its if row.arm == arm}
                lines.append([arm, *(_peak(at[length]) if length in at else "" for length in lengths)])
            parts.append(table(lines))
    return "\n\n".join(parts)


def _peak(row: Row) -> str:
    return share(row.peaks) + (" (edge)" if row.is_at_edge else "") + _diverged(row)


def step_size(plan: Plan) -> str:
    """Of an optimizer step, in words."""
    if plan.step_tokens is None:
        return f"{plan.examples_per_step} examples"
    return f"{plan.step_tokens:,} tokens"


def rates_of(plan: Plan) -> str:
    """Which learning rate counts, in a sentence."""
    if plan.search is None:
        ended = "" if plan.stop_at is None else f", or that was first right in {plan.stop_at:.1%}, which ends a run"
        return f"Of {len(plan.rates)} rates the one whose training loss fell lowest, the mean over seeds{ended}."
    return (
        f"Rates were searched with seed {plan.search.seed}, which does not count, for every arm on every task: of "
        f"{', '.join(f'{rate:g}' for rate in plan.rates)} and further ones while the best was an outer one (at most "
        f"{plan.search.most_rates}) the one whose training loss fell lowest."
    )


def how(plan: Plan) -> str:
    """What the numbers are and how they came about."""
    several = f"{len(plan.seeds)} seeds: the mean, in brackets its 95% interval (Student's t)"
    seeds = several if len(plan.seeds) > 1 else "1 seed"
    return f"""Share of right answers on {plan.test_examples} test examples that training never has; {seeds}. \
{rates_of(plan)} "edge": it is the lowest or highest of them, so a better one may lie outside. At most \
{plan.steps:,} steps of {step_size(plan)}, {plan.optimizer}, \
{plan.sizes.num_heads} heads of {plan.sizes.head_dim}."""


def markdown(plan: Plan, found: Sequence[Row]) -> str:
    """The report as a page. The pictures that it shows are those of `plots.draw`."""
    lines = [*(cells(row) for row in found), *guess_cells(plan)]
    parts = ["# Learnt from scratch", table([titles(plan), *lines]), f"{how(plan)} {GUESSES}"]
    if found:
        parts += [by_length(found), *(f"![{text}]({file})" for file, text in PICTURES.items())]
    return "\n\n".join(part for part in parts if part) + "\n"
