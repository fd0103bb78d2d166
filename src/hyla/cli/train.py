"""`hyla train`: a recipe, a folder of text or a token store becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.model_flags import Device
from hyla.cli.run_flags import Out, Resume, Settings, run_folder


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE.toml|DATA",
            help="A recipe, or a folder of UTF-8 text files (read with its subfolders), or a token store.",
        ),
    ],
    out: Out = None,
    settings: Settings = None,
    config: Annotated[
        Path | None, typer.Option(help="For DATA: TOML file with the tables [recipe] (sizes) and [train] (steps, ...).")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Training time; sets the number of steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps; default for DATA: 350.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Start values and order of the documents.")] = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved recipe, parameters, cost, bytes and time; then stop.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Train a hybrid model. Ctrl-C keeps what there is; called again, it continues."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.training import make_request

    request = make_request(data, config=config, minutes=minutes, steps=steps, seed=seed, settings=settings or ())
    if dry_run:
        from hyla.cli.train_tables import show_dry_run

        show_dry_run(request)
        return
    from hyla.cli.console import console
    from hyla.cli.interrupts import STATUS
    from hyla.cli.training import keep, say_saved, say_stopped, train_with_bar

    run, trained = train_with_bar(run_folder(out, resume), request, device)
    if trained.memory is not None:
        console.print(str(trained.memory), soft_wrap=True)
    score = keep(run, trained)
    if not trained.is_finished:
        say_stopped(run, trained, score)
        raise typer.Exit(STATUS)
    say_saved(run, score)
