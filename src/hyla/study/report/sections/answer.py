"""The question, and what the study recommends."""

from __future__ import annotations

from hyla.study.report.findings import Findings
from hyla.study.report.formats import flops, named


def question(found: Findings) -> str:
    return f"# {found.about.name}\n\n{found.about.question.strip()}"


def recommendation(found: Findings) -> str:
    """In words; which run would decide it next where it is inside the noise."""
    told = found.recommendation
    if told is None:
        return f"## Recommendation\n\nNone: {_why_none(found)}"
    words = told.words.replace("Inside the noise:", "**Inside the noise:**", 1)
    parts = ["## Recommendation", words]
    if found.next_runs is not None and told.is_inside_the_noise:
        parts.append(f"What would decide it next: {found.next_runs.words}.")
    if gaps := _gaps(found):
        parts.append(gaps)
    return "\n\n".join(parts)


def _why_none(found: Findings) -> str:
    if found.without_cost:
        return f"the bytes of cache of {named(found.without_cost)} are not known."
    left = "; ".join(f"{arm} ({why})" for arm, why in found.left_out.items())
    return "fewer than two arms can be compared." + (f" Left out: {left}." if left else "")


def _gaps(found: Findings) -> str:
    """Places that a recommendation does not stand on, of arms that are compared."""
    told = []
    for arm in found.about.arms:
        cells = {budget: found.cells.get((arm, budget)) for budget in found.about.budgets}
        bad = [budget for budget, cell in cells.items() if cell is None or not cell.is_valid]
        if bad and arm not in found.left_out:
            told.append(f"{arm} at {named(flops(budget) for budget in bad)}")
    return f"It does not stand on {'; '.join(told)}: marked or missing below." if told else ""
