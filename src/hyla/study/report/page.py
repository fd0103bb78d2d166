"""report.md: its parts in their order, each with its picture."""

from __future__ import annotations

from collections.abc import Collection

from hyla.study.report.findings import Findings
from hyla.study.report.sections import answer, costs, laws, losses, method, positions, published, rates, runs, tasks

PICTURES = {
    "losses": "loss against FLOPs, with laws and their intervals",
    "differences": "differences to the reference",
    "tasks": "right answers by task and arm",
    "settings": "right answers by setting",
    "costs": "loss against cache bytes and time of a token",
    "positions": "bits per byte by position",
    "layers": "figures inside the layers",
    "curves": "training loss by tokens",
}


def markdown(found: Findings, drawn: Collection[str]) -> str:
    """The page. drawn: names of the pictures that stand beside it."""
    parts = [
        answer.question(found),
        answer.recommendation(found),
        method.method(found),
        losses.loss_table(found),
        _picture("losses", drawn),
        losses.differences(found),
        _picture("differences", drawn),
        laws.laws(found),
        tasks.tasks(found),
        _picture("tasks", drawn),
        _picture("settings", drawn),
        positions.positions(found),
        _picture("positions", drawn),
        positions.inside(found),
        _picture("layers", drawn),
        costs.costs(found),
        _picture("costs", drawn),
        rates.rates(found),
        _picture("curves", drawn),
        published.published(found),
        method.limits(found),
        runs.runs(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(name: str, drawn: Collection[str]) -> str:
    return f"![{PICTURES[name]}]({name}.png)" if name in drawn else ""
