"""What `hyla train` and `hyla quickstart` share: from flags to a request, and a run under a progress bar."""

from __future__ import annotations

from pathlib import Path

from hyla.checkpoints.card import HeldoutScore
from hyla.cli.config_file import read_toml
from hyla.cli.console import console, training_bar
from hyla.cli.interrupts import stopped_by_ctrl_c
from hyla.errors import ConfigError
from hyla.ops.devices import resolve_device
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.card import leave_card
from hyla.train.config import TrainConfig
from hyla.train.files import held
from hyla.train.recipe import HybridRecipe
from hyla.train.report import heldout_score
from hyla.train.run import Run, RunRequest, Trained, open_run

DEFAULT_STEPS = 350
"""About two minutes on two quiet cores. A number, not a time: what comes out must not depend on the neighbours."""

UNRESOLVED_STEPS = 1
"""Stands in a request that gives minutes; the run's own config has the real number."""


def make_request(
    data: Path | None, *, config: Path | None, minutes: float | None, steps: int | None, seed: int | None
) -> RunRequest:
    """Flags win over the file; without steps or minutes, DEFAULT_STEPS. Raises ConfigError."""
    if minutes is not None and steps is not None:
        raise ConfigError("give --minutes or --steps, not both: minutes are turned into a number of steps")
    tables = read_toml(config)
    train = {"steps": DEFAULT_STEPS, **tables.get("train", {})}
    if seed is not None:
        train["seed"] = seed
    if steps is not None:
        train["steps"] = steps
    elif minutes is not None:
        train["steps"] = UNRESOLVED_STEPS
    return RunRequest(
        data=str(data.absolute()) if data is not None else None,
        minutes=minutes,
        recipe=HybridRecipe(**tables.get("recipe", {})),
        train=TrainConfig(**train),
    )


def train_with_bar(out: Path, request: RunRequest, device: str) -> tuple[Run, Trained]:
    """Open or prepare the run in `out` and bring it to its last step, or to the one in which Ctrl-C is pressed.

    device: as PyTorch names it.
    """
    keep_freed_memory()
    place = resolve_device(device)
    with held(out):
        run = open_run(out, request, lambda line: console.print(line), device=place)
        with stopped_by_ctrl_c(lambda line: console.print(line)) as is_stopped, training_bar(run.train.steps) as bar:
            trained = run.trained(bar, bar.resumed, device=place, say=console.print, is_stopped=is_stopped)
    return run, trained


def keep(run: Run, trained: Trained) -> HeldoutScore:
    """Save the model with its card, and score it for the card.

    Saved first: whoever presses Ctrl-C again while it is scored still has the model.
    """
    run.save_model(trained.model)
    leave_card(run, trained, None)
    with console.status("scoring the held-out files"):
        score = heldout_score(run, trained.model)
    leave_card(run, trained, score)
    return score


def say_stopped(run: Run, trained: Trained, bits_per_byte: float) -> None:
    """One line on what a stopped run left."""
    console.print(
        f"stopped after step {trained.steps} of {trained.planned_steps}: {bits_per_byte:.3f} bits per byte on held-out "
        f"text, saved in {run.model_folder}; the same command goes on, `hyla serve {run.model_folder}` serves it",
        soft_wrap=True,
    )
