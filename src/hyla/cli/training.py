"""What `hyla train` and `hyla quickstart` share: from flags to a request, and a run under a progress bar."""

from __future__ import annotations

from pathlib import Path

from hyla.cli.config_file import read_toml
from hyla.cli.console import console, training_bar
from hyla.errors import ConfigError
from hyla.models.trunk import Model
from hyla.ops.devices import resolve_device
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.config import TrainConfig
from hyla.train.recipe import HybridRecipe
from hyla.train.run import Run, RunRequest, open_run

DEFAULT_MINUTES = 2.0
UNRESOLVED_STEPS = 1
"""Stands in a request that gives minutes; the run's own config has the real number."""


def make_request(
    data: Path | None, *, config: Path | None, minutes: float | None, steps: int | None, seed: int | None
) -> RunRequest:
    """Flags win over the file; without any number of steps, two minutes. Raises ConfigError."""
    if minutes is not None and steps is not None:
        raise ConfigError("give --minutes or --steps, not both: minutes are turned into a number of steps")
    tables = read_toml(config)
    train = dict(tables.get("train", {}))
    if seed is not None:
        train["seed"] = seed
    if steps is not None:
        train["steps"] = steps
    elif minutes is not None or "steps" not in train:
        minutes, train["steps"] = minutes or DEFAULT_MINUTES, UNRESOLVED_STEPS
    return RunRequest(
        data=str(data.absolute()) if data is not None else None,
        minutes=minutes,
        recipe=HybridRecipe(**tables.get("recipe", {})),
        train=TrainConfig(**train),
    )


def train_with_bar(out: Path, request: RunRequest, device: str) -> tuple[Run, Model]:
    """Open or prepare the run in `out` and bring it to its last step, on a device as PyTorch names it."""
    keep_freed_memory()
    place = resolve_device(device)
    run = open_run(out, request, lambda line: console.print(line), device=place)
    with training_bar(run.train.steps) as bar:
        model = run.trained(bar, bar.resumed, device=place, say=console.print)
    return run, model
