"""What was done, in five lines, and what it does not show."""

from __future__ import annotations

from statistics import mean

from hyla.study.report.findings import Findings
from hyla.study.report.formats import changes, flops, layers, named

HOUR = 3600


def method(found: Findings) -> str:
    """Arms, budgets and sizes, rates, seeds, data and machine: from the results alone."""
    if not found.language:
        return "## Method\n\nNo run is finished."
    lines = [_arms(found), _budgets(found), _rates(found), _seeds(found), _machine(found)]
    notes = f"\n\n{found.about.notes.strip()}" if found.about.notes else ""
    return "## Method\n\n" + "\n".join(f"- {line}" for line in lines) + notes


def _arms(found: Findings) -> str:
    told = []
    for arm in found.about.arms:
        run = next((result.run for result in found.language if result.run.arm == arm), None)
        if run is None:
            told.append(f"{arm} (no runs)")
            continue
        changed = f"; {changes(run.changes)}" if run.changes else ""
        told.append(f"{arm} ({layers(run.layers)}{changed})")
    return f"Arms: {'; '.join(told)}. The reference is {found.about.reference}."


def _budgets(found: Findings) -> str:
    told = []
    for budget in found.about.budgets:
        cells = [cell for (_, at), cell in found.cells.items() if at == budget]
        if not cells:
            told.append(f"{flops(budget)} (no runs)")
            continue
        figures = [run.figures for cell in cells for run in cell.runs]
        parameters, tokens = ([getattr(each, name) / 1e6 for each in figures] for name in ("parameters", "tokens"))
        sizes = named(dict.fromkeys(cell.size for cell in cells))
        told.append(f"{flops(budget)} ({sizes}; {_range(parameters)}M parameters, {_range(tokens)}M tokens)")
    return f"Budgets, FLOPs of training by the cost model, text as it is read (width x layers): {'; '.join(told)}."


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _rates(found: Findings) -> str:
    if not found.about.tuned and found.num_rate_runs:
        return f"Learning rates: not chosen yet; {found.num_rate_runs} runs are there to choose by."
    if not found.about.tuned:
        return f"Learning rates: {named(sorted({f'{cell.rate:g}' for cell in found.cells.values()}))}, not tuned."
    at = named(flops(budget) for budget in sorted({search.budget for search in found.about.tuned}))
    count = max(len(search.bits) for search in found.about.tuned)
    return (
        f"Learning rates: chosen arm by arm at {at} FLOPs among up to {count}, on the validation text, with a seed of "
        "its own; other budgets have the nearest one's, scaled by the study's rule."
    )


def _seeds(found: Findings) -> str:
    counted = len(found.language) - found.num_rate_runs
    return (
        f"Seeds: {named(found.about.seeds)}; a seed is the start values and the order of the data, which all arms "
        f"share. {counted} runs count, {found.num_rate_runs} were for rates."
    )


def _machine(found: Findings) -> str:
    seconds = sum(result.figures.seconds + result.figures.evaluation_seconds for result in found.language)
    longest = max(result.figures.seconds + result.figures.evaluation_seconds for result in found.language)
    machines = named(dict.fromkeys(result.figures.machine for result in found.language))
    return (
        f"Data {found.language[0].run.data}; {machines}; {_time(seconds)} of training and scoring, the "
        f"longest run {longest / 60:.1f} minutes."
    )


def _time(seconds: float) -> str:
    return f"{seconds / HOUR:.1f} hours" if seconds > HOUR else f"{seconds / 60:.0f} minutes"


def limits(found: Findings) -> str:
    """What the results do not show."""
    if not found.language:
        return ""
    parameters = max(result.figures.parameters for result in found.language) / 1e6
    tokens = max(result.figures.tokens for result in found.language) / 1e6
    budgets = [result.run.budget for result in found.language]
    lines = [
        f"Models of at most {parameters:.2f}M parameters, {tokens:.1f}M tokens: what holds here need not hold for "
        "larger ones. One vendor found that small runs did not show what large ones lost (arXiv 2605.26494).",
        f"Budgets from {flops(min(budgets))} to {flops(max(budgets))} FLOPs. Laws are not to be read outside of them.",
        f"{len(found.about.seeds)} seeds, one data set, one optimizer and schedule; intervals know the noise of seeds "
        "and nothing else.",
        f"{_machines(found)}: the same runs on another kind of processor have other last bits.",
    ]
    if (spread := _spread(found)) > 0.05:
        lines.append(f"At equal FLOPs the arms' parameters differ by up to {spread:.0%}.")
    if found.costs and all(cost.ms_per_token is None for cost in found.costs.values()):
        lines.append("Decoding was not timed; caches are by the cost model.")
    if not any(result.figures.tasks for result in found.language):
        lines.append("No task was scored: loss alone says little of recall and of multi-hop questions.")
    return "## What this does not show\n\n" + "\n".join(f"- {line}" for line in lines)


def _machines(found: Findings) -> str:
    kinds = {result.figures.machine for result in found.language}
    return "One kind of machine" if len(kinds) == 1 else f"{len(kinds)} kinds of machines"


def _spread(found: Findings) -> float:
    """The largest difference of mean parameters between arms at a budget, as a share."""
    shares = [0.0]
    for budget in found.about.budgets:
        cells = [cell for (_, at), cell in found.cells.items() if at == budget]
        means = [mean(run.figures.parameters for run in cell.runs) for cell in cells]
        if means:
            shares.append(max(means) / min(means) - 1)
    return max(shares)
