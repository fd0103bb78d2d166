"""`hyla rl`: a trained model learns from rewards for its own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.run_flags import Out, Resume, Settings, run_folder


def rl(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="Model, tasks, rewards, rollouts and training.")
    ],
    out: Out = None,
    settings: Settings = None,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved recipe; then stop.")] = False,
) -> None:
    """Reinforcement learning (docs/rl.md). Ctrl-C keeps what there is; called again, it continues."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.console import console
    from hyla.cli.interrupts import STATUS
    from hyla.cli.rl_lines import train_with_lines
    from hyla.rl.config import RLRequest
    from hyla.train.recipe_file import read_recipe

    request = read_recipe(recipe, settings or (), RLRequest)
    if dry_run:
        console.print_json(request.model_dump_json())
        return
    run, steps = train_with_lines(run_folder(out, resume), request)
    if steps < request.train.steps:
        console.print(
            f"stopped after step {steps} of {request.train.steps}: saved in {run.model_folder}; "
            "the same command goes on",
            soft_wrap=True,
        )
        raise typer.Exit(STATUS)
    console.print(f"saved {run.model_folder}; try: hyla generate {run.model_folder} ...", soft_wrap=True)
