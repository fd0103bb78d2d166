"""`hyla train DATA`: a folder of text becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Argument(help="Folder of UTF-8 text files, read with all its subfolders.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the model ends up in its subfolder model/.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the tables [recipe] (sizes) and [train] (steps, rates, ...).")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Training time; sets the number of steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps; default 350.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Start values and order of the documents.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute, as PyTorch names devices: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Train a hybrid model on a folder of text. Ctrl-C keeps what there is; called again, it continues."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()
    from hyla.cli.console import console
    from hyla.cli.interrupts import STATUS
    from hyla.cli.training import keep, make_request, say_stopped, train_with_bar

    request = make_request(data, config=config, minutes=minutes, steps=steps, seed=seed)
    run, trained = train_with_bar(out, request, device)
    score = keep(run, trained)
    if not trained.is_finished:
        say_stopped(run, trained, score.bits_per_byte)
        raise typer.Exit(STATUS)
    console.print(f"{score.bits_per_byte:.3f} bits per byte on held-out text")
    console.print(f"saved {run.model_folder}; try: hyla generate {run.model_folder} 'def '")
