"""Scores of the harness's tasks as a page."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.evals.costs import COST_TITLES, cost_cells, told_costs
from hyla.evals.harness.run import Scored
from hyla.evals.tables import as_markdown
from hyla.train.intervals import interval

TITLES: tuple[str, ...] = ("task", "metric", "score", "95% interval", "questions")


def table(rows: Sequence[Scored]) -> list[list[str]]:
    """A row for each task and metric; the bootstrap interval is that of a mean over questions, where it is one."""
    lines: list[list[str]] = [list(TITLES)]
    for row in rows:
        values = row.values
        is_mean = values and abs(sum(values) / len(values) - row.value) < 1e-9
        low, high = interval(values) if is_mean else (None, None)
        shown = "" if low is None else f"{low:.4f} to {high:.4f}"
        lines.append([row.task, row.metric, f"{row.value:.4f}", shown, str(len(values)) if values else ""])
    return lines


def cost_table(rows: Sequence[Scored]) -> list[list[str]]:
    """What all questions of a task took, for each that was right by its first metric of rights and wrongs."""
    lines = [["task", "right", *COST_TITLES]]
    for row in rows:
        if not row.values or not set(row.values) <= {0.0, 1.0} or any(line[0] == row.task for line in lines[1:]):
            continue
        right = round(sum(row.values))
        lines.append([row.task, f"{right} of {len(row.values)} ({row.metric})", *cost_cells(row.spent, right)])
    return lines


def markdown(rows: Sequence[Scored], num_truncated: int) -> str:
    """The report as a page."""
    spent = [one for own in {row.task: row.spent for row in rows}.values() for one in own]
    cut = f"\n{num_truncated} contexts were too long and lost their beginning.\n" if num_truncated else ""
    return f"""# lm-evaluation-harness

{as_markdown(table(rows))}

Scores are the harness's own; the interval is the 95% bootstrap interval over questions.
{cut}
## What a right answer costs

{as_markdown(cost_table(rows))}

What all questions of a task took, divided by those that were right: seconds of this machine, FLOPs by the cost model, \
without what came from the prefix cache. {told_costs(spent)}
"""
