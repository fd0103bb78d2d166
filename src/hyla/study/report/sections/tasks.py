"""Tasks beside the loss: recall, multi-hop, needles, turns."""

from __future__ import annotations

from hyla.evals.pages import table
from hyla.evals.synthetic.guesses import Guess
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, flops, interval, named
from hyla.study.report.tasks import RULE, TaskScores, change_per_doubling, families
from hyla.study.statistics import Comparison, Interval

GUESSES = """Last row: what is right if always one of the values read so far is said, in brackets the one of the \
first, the last and the most frequent that is right most often. An arm near it has learnt which tokens are values, not \
which belongs to what."""
KINDS = {
    "recall": "recall",
    "mqar": "recall",
    "variables": "multi-hop",
    "needle": "needle",
    "turns": "multi-turn",
    "overwrite": "recall of what was overwritten",
}


def tasks(found: Findings) -> str:
    """Scores at the largest budget, and differences to the reference."""
    budget = found.top_budget
    if not found.tasks or budget is None:
        return ""
    names = [task.name for task in found.tasks]
    lines = [[found.arm_name(arm), *(_score(task, arm, budget) for task in found.tasks)] for arm in found.about.arms]
    lines.append(["(always one value read)", *(_guess(found.guesses.get(name)) for name in names)])
    parts = [
        "## Tasks",
        table([["arm", *(_title(found, name) for name in names)], *lines]),
        f"Share of right answers on the test split at {flops(budget)} FLOPs; mean over seeds, 95% intervals (t). "
        + RULE.format(share=found.about.learnt_at, reference=found.about.reference)
        + f" {GUESSES}",
        _compared(found),
        _by_setting(found, budget),
        _by_part(found, budget),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(found: Findings, name: str) -> str:
    """A task's name, and what it asks for."""
    task = found.task_tables.get(name)
    kind = KINDS.get(name if task is None else task.kind)
    return name if kind in (None, name) else f"{name} ({kind})"


def _guess(guess: Guess | None) -> str:
    return NOTHING if guess is None else f"{guess.share:.1%} ({guess.value})"


def _score(task: TaskScores, arm: str, budget: float) -> str:
    score = task.means.get((arm, budget))
    text = interval(score, ".1%")
    return text if score is None or budget in task.learnt else f"not learnt ({text})"


def _compared(found: Findings) -> str:
    lines = [[task.name, *_difference(one)] for task in found.tasks for one in task.comparisons]
    if not lines:
        if any(task.learnt for task in found.tasks):
            return "No task is compared: where one is learnt, the rows of the reference or of all others are marked."
        return "No task is learnt, so none is compared."
    return (
        table([["task", "arm", "difference", "budgets", "verdict"], *lines])
        + f"\n\nShare of right answers, arm minus {found.about.reference}, of equal seeds, mean over the budgets at "
        "which the task is learnt; above zero the arm is better. The verdicts of a task are judged together (Holm)."
    )


def _by_setting(found: Findings, budget: float) -> str:
    """Of tasks at several settings that are learnt, whether arms fall behind as the setting grows."""
    reference = found.about.reference
    lines = []
    for name, by_setting in families(found.tasks).items():
        lowest = by_setting[min(by_setting)]
        if budget in lowest.learnt:
            for arm in found.about.arms:
                if arm == reference or not _knows_more_than_half(found, lowest, arm, budget):
                    continue
                change = change_per_doubling(by_setting, arm, budget)
                if change is not None:
                    lines.append([name, named(by_setting), arm, interval(change, "+.1%"), _trend(change)])
    if not lines:
        return ""
    return (
        table([["task", "settings", "arm", "change for each doubling", ""], *lines])
        + f"\n\nHow much the arm's difference to {reference} changes when the setting doubles: a line for each seed, "
        "the mean of their slopes, 95% interval over seeds, each arm judged alone. Below zero the arm falls behind as "
        "the setting grows. Only arms that are nearer to the reference than to a guess at the lowest setting are shown."
    )


def _knows_more_than_half(found: Findings, task: TaskScores, arm: str, budget: float) -> bool:
    """Of what the reference knows and a guess does not. One that always guesses gains as the reference falls."""
    score, theirs = task.means.get((arm, budget)), task.means[found.about.reference, budget]
    guess = found.guesses.get(task.name)
    return score is not None and score.estimate > ((guess.share if guess else 0.0) + theirs.estimate) / 2


def _by_part(found: Findings, budget: float) -> str:
    """Of conversations, right answers by kind of question and by age; means, nothing is concluded from them."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = {}
    for arm in found.about.arms:
        cell = found.cells.get((arm, budget))
        for run in cell.runs if cell is not None else ():
            for task, parts in run.figures.task_parts.items():
                for part, score in parts.items():
                    scores.setdefault((task, part), {}).setdefault(arm, []).append(score)
    if not scores:
        return ""
    names = [found.arm_name(arm) for arm in found.about.arms]
    lines = [
        [task, part, *(_mean(by_arm.get(arm)) for arm in found.about.arms)] for (task, part), by_arm in scores.items()
    ]
    return (
        table([["task", "questions", *names], *lines])
        + "\n\nRight answers by kind of question and by how many turns ago the answer was said; means over seeds, to "
        "look at: nothing is concluded from them."
    )


def _mean(scores: list[float] | None) -> str:
    return f"{sum(scores) / len(scores):.1%}" if scores else NOTHING


def _trend(change: Interval) -> str:
    if change.high < 0:
        return "falls behind"
    return "gains" if change.low > 0 else "inside the noise"


def _difference(one: Comparison) -> list[str]:
    return [one.first, interval(one.difference, "+.1%"), str(len(one.by_budget)) or NOTHING, one.verdict]
