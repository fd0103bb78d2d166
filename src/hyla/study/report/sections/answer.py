"""The question, and what the study recommends."""

from __future__ import annotations

from hyla.study.report.findings import Findings
from hyla.study.report.formats import flops, named
from hyla.study.statistics import next_runs


def question(found: Findings) -> str:
    return f"# {found.about.name}\n\n{found.about.question.strip()}"


def recommendation(found: Findings) -> str:
    """In words; which run would decide it next where it is inside the noise."""
    if found.about.is_ablation and found.comparisons:
        return _ablation(found)
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


def _ablation(found: Findings) -> str:
    """Which of the single changes help or harm beyond the noise."""
    reference = found.about.reference
    better = [one for one in found.comparisons if one.better == one.first]
    worse = [one for one in found.comparisons if one.better == reference]
    open_ones = [one for one in found.comparisons if one.better is None and one.difference is not None]
    lines = [
        f"Better than {reference} beyond the noise: {named(one.first for one in better)}.",
        f"Worse: {named(one.first for one in worse)}.",
        f"**Inside the noise:** {named(one.first for one in open_ones)}." if open_ones else "",
        f"Not compared: {_left_out(found)}." if found.left_out else "",
    ]
    parts = ["## Recommendation", " ".join(line for line in lines if line)]
    if open_ones:
        # Of what is open, the change that seems to do most.
        largest = max(open_ones, key=lambda one: abs(one.difference.estimate if one.difference else 0.0))
        parts.append(f"What would decide it next: {next_runs(largest).words}.")
    return "\n\n".join([*parts, *filter(None, [_gaps(found)])])


def _left_out(found: Findings) -> str:
    return "; ".join(f"{arm} ({why})" for arm, why in found.left_out.items())


def _why_none(found: Findings) -> str:
    if found.without_cost:
        return f"the bytes of cache of {named(found.without_cost)} are not known."
    left = f" Left out: {_left_out(found)}." if found.left_out else ""
    return f"fewer than two arms can be compared.{left}"


def _gaps(found: Findings) -> str:
    """Places that a recommendation does not stand on, of arms that are compared."""
    told = []
    for arm in found.about.arms:
        cells = {budget: found.cells.get((arm, budget)) for budget in found.about.budgets}
        bad = [budget for budget, cell in cells.items() if cell is None or not cell.is_valid]
        if bad and arm not in found.left_out:
            told.append(f"{arm} at {named(flops(budget) for budget in bad)}")
    return f"It does not stand on {'; '.join(told)}: marked or missing below." if told else ""
