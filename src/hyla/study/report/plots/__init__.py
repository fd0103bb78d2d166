"""Plots of a study. Each is written where there is something to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyla.study.report.findings import Findings
from hyla.study.report.plots.inside import plot_curves, plot_layers, plot_positions
from hyla.study.report.plots.losses import plot_differences, plot_losses
from hyla.study.report.plots.quality import plot_costs, plot_settings, plot_tasks
from hyla.study.report.sections.costs import differs
from hyla.study.report.sections.positions import TITLES, by_position, layer_means
from hyla.study.report.tasks import families


def draw(found: Findings, folder: Path) -> dict[str, Path]:
    """Write a PNG for each plot that has something to show; by the plot's name, its file. Raises OSError."""
    if not any(cell.bits for cell in found.cells.values()):
        return {}
    plots: dict[str, tuple[bool, Callable[[Findings, Path], None]]] = {
        "losses": (len({cell.budget for cell in found.cells.values()}) > 1, plot_losses),
        "differences": (any(one.difference for one in found.comparisons), plot_differences),
        "tasks": (bool(found.tasks), plot_tasks),
        "settings": (bool(families(found.tasks)), plot_settings),
        "costs": (differs(found) and any(cost.cache_bytes for cost in found.costs.values()), plot_costs),
        "positions": (any(by_position(cell) for cell in found.top_cells.values()), plot_positions),
        "layers": (
            any(layer_means(cell, name) for cell in found.top_cells.values() for name in TITLES),
            plot_layers,
        ),
        "curves": (any(run.figures.curve for cell in found.top_cells.values() for run in cell.runs), plot_curves),
    }
    files = {}
    for name, (is_wanted, plot) in plots.items():
        if is_wanted:
            files[name] = folder / f"{name}.png"
            plot(found, files[name])
    return files
