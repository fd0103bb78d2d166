"""What `hyla train --dry-run` shows."""

from __future__ import annotations

import json

from rich.table import Table

from hyla.cli.console import console, describe_bytes
from hyla.cost.calibration import load_calibration
from hyla.errors import HylaError
from hyla.train.dry_run import DryRun, dry_run
from hyla.train.run import RunRequest


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
    table, memory = Table(show_header=False), found.memory
    rows = {
        "layers": found.pattern,
        "parameters": f"{found.parameters:,} ({found.active_parameters:,} active)",
        "steps": f"{request.train.steps:,}" + ("" if found.tokens is None else f", {found.tokens:,} tokens"),
        "FLOPs": f"{found.flops_per_token:.3g} a token"
        + ("" if found.flops is None else f", {found.flops:.3g} in all"),
        "weights": describe_bytes(memory.weight_bytes),
        "gradients": describe_bytes(memory.gradient_bytes),
        "optimizer": describe_bytes(memory.optimizer_bytes),
        "averaged weights": describe_bytes(memory.average_bytes),
        "activations of one pass": describe_bytes(memory.activation_bytes),
        "logits": describe_bytes(memory.loss_bytes),
        "memory in all": describe_bytes(memory.bytes),
    }
    if found.step_seconds is not None:
        hours = found.step_seconds * request.train.steps / 3600
        rows["time on paper"] = f"{found.step_seconds:.3g} s a step, {hours:.3g} hours in all"
    for name, value in rows.items():
        table.add_row(name, value)
    return table
