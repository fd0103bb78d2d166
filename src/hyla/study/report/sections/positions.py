"""Bits per byte by position, and what layers show inside."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean

from hyla.evals.pages import table
from hyla.study.report.cells import Cell
from hyla.study.report.findings import Findings
from hyla.study.report.formats import flops, interval
from hyla.study.report.intervals import seed_mean
from hyla.study.statistics import Interval

TITLES = {
    "sink_mass": "share of attention on the first token",
    "largest_activation": "largest activation of the stream",
    "largest_output": "largest output of the mixer",
}


def by_position(cell: Cell) -> dict[int, Interval]:
    """By the first position of a bucket, the mean over seeds."""
    firsts = sorted({int(first) for run in cell.runs for first in run.figures.bits_by_position})
    found = {first: seed_mean([by[str(first)] for by in _tables(cell) if str(first) in by]) for first in firsts}
    return {first: score for first, score in found.items() if score is not None}


def differences_by_position(cell: Cell, reference: Cell) -> dict[int, Interval]:
    """The same, cell minus reference, of equal seeds."""
    theirs = {run.run.seed: run.figures.bits_by_position for run in reference.runs}
    both = [(run.figures.bits_by_position, theirs[run.run.seed]) for run in cell.runs if run.run.seed in theirs]
    firsts = sorted({int(first) for mine, other in both for first in mine if first in other})
    found = {}
    for first in firsts:
        score = seed_mean([mine[str(first)] - other[str(first)] for mine, other in both if str(first) in other])
        if score is not None:
            found[first] = score
    return found


def _tables(cell: Cell) -> list[dict[str, float]]:
    return [run.figures.bits_by_position for run in cell.runs]


def positions(found: Findings) -> str:
    """Arms x buckets at the largest budget."""
    its = {arm: by for arm, cell in found.top_cells.items() if (by := by_position(cell))}
    if not its or found.top_budget is None:
        return ""
    firsts = sorted({first for by in its.values() for first in by})
    names = [f"{first} to {after - 1}" for first, after in pairwise(firsts)] + [f"from {firsts[-1]}"]
    lines = [[found.arm_name(arm), *(interval(by.get(first), ".3f") for first in firsts)] for arm, by in its.items()]
    return f"""## Bits per byte by position

{table([["arm", *names], *lines])}

By how many bytes the model had read before, at {flops(found.top_budget)} FLOPs. An arm that remembers less gains less \
towards the right."""


def layer_means(cell: Cell, name: str) -> list[float]:
    """A figure of each layer, the mean over seeds; none where no run has it, or it is zero everywhere."""
    runs = [run.figures.layers_inside[name] for run in cell.runs if name in run.figures.layers_inside]
    return [mean(values) for values in zip(*runs)] if any(map(any, runs)) else []


def inside(found: Findings) -> str:
    """Figures inside the layers, a row for each arm and figure."""
    lines = []
    for name, title in TITLES.items():
        for arm, cell in found.top_cells.items():
            if means := layer_means(cell, name):
                shown = " ".join(f"{value:.3g}" for value in means)
                lines.append([title, found.arm_name(arm), f"{max(means):.3g}", shown])
    if not lines or found.top_budget is None:
        return ""
    return f"""## Inside the layers

{table([["figure", "arm", "largest layer", "layer by layer"], *lines])}

Means over seeds at {flops(found.top_budget)} FLOPs. The first token's share is zero in layers without attention."""
