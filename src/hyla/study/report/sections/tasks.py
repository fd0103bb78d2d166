"""Tasks beside the loss: recall, multi-hop, needles, turns."""

from __future__ import annotations

from hyla.evals.pages import table
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, flops, interval
from hyla.study.report.tasks import RULE, TaskScores
from hyla.study.statistics import Comparison

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
    parts = [
        "## Tasks",
        table([["arm", *(_title(name) for name in names)], *lines]),
        f"Share of right answers on the test split at {flops(budget)} FLOPs; mean over seeds, 95% intervals (t). "
        + RULE.format(found.about.learnt_at),
        _compared(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(name: str) -> str:
    kind = KINDS.get(name)
    return name if kind in (None, name) else f"{name} ({kind})"


def _score(task: TaskScores, arm: str, budget: float) -> str:
    score = task.means.get((arm, budget))
    text = interval(score, ".1%")
    return text if score is None or budget in task.learnt else f"not learnt ({text})"


def _compared(found: Findings) -> str:
    lines = [[task.name, *_difference(one)] for task in found.tasks for one in task.comparisons]
    if not lines:
        return "No task is learnt, so none is compared."
    return (
        table([["task", "arm", "difference", "budgets", "verdict"], *lines])
        + f"\n\nShare of right answers, arm minus {found.about.reference}, of equal seeds, mean over the budgets at "
        "which the task is learnt; above zero the arm is better. The verdicts of a task are judged together (Holm)."
    )


def _difference(one: Comparison) -> list[str]:
    return [one.first, interval(one.difference, "+.1%"), str(len(one.by_budget)) or NOTHING, one.verdict]
