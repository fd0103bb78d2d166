"""What `hyla train --dry-run` shows."""

from __future__ import annotations

import json

from rich.table import Table

from hyla.cli.console import console
from hyla.cost.calibration import load_calibration
from hyla.errors import HylaError
from hyla.train.dry_run import DryRun, dry_run
from hyla.train.run import RunRequest

UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def in_bytes(count: float) -> str:
    """A number of bytes for people.

    >>> in_bytes(1_300_000), in_bytes(12)
    ('1.3 MB', '12 bytes')
    """
    name, size = next(((name, size) for name, size in UNITS if count >= size), ("bytes", 1.0))
    return f"{count / size:.3g} {name}"


def show_dry_run(request: RunRequest) -> None:
    """The resolved recipe, and what it costs."""
    try:
        device = load_calibration()
    except HylaError:
        device = None
    found = dry_run(request, device)
    console.print_json(json.dumps(request.model_dump(mode="json")))
    console.print(_table(found, request))
    if device is None:
        console.print("time of a step: unknown before `hyla cost --calibrate` has measured this machine")


def _table(found: DryRun, request: RunRequest) -> Table:
    table = Table(show_header=False)
    rows = {
        "layers": found.pattern,
        "parameters": f"{found.parameters:,} ({found.active_parameters:,} active)",
        "steps": f"{request.train.steps:,}" + ("" if found.tokens is None else f", {found.tokens:,} tokens"),
        "FLOPs": f"{found.flops_per_token:.3g} a token"
        + ("" if found.flops is None else f", {found.flops:.3g} in all"),
        "weights": in_bytes(found.weight_bytes),
        "gradients": in_bytes(found.gradient_bytes),
        "optimizer": in_bytes(found.optimizer_bytes),
        "averaged weights": in_bytes(found.average_bytes),
        "activations of one pass": in_bytes(found.activation_bytes),
        "logits": in_bytes(found.loss_bytes),
        "memory in all": in_bytes(found.bytes),
    }
    if found.step_seconds is not None:
        hours = found.step_seconds * request.train.steps / 3600
        rows["time on paper"] = f"{found.step_seconds:.3g} s a step, {hours:.3g} hours in all"
    for name, value in rows.items():
        table.add_row(name, value)
    return table
