"""The flags of every verb that begins a run in a folder, or goes on with one. Loads no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.errors import ConfigError

Out = Annotated[Path | None, typer.Option(help="Folder of the run; the model ends up in its subfolder model/.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, e.g. train.steps=100; wins over it.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Only go on with a run that --out holds already.")]


def run_folder(out: Path | None, resume: bool) -> Path:
    """The folder that a run is kept in. Raises ConfigError for none, and for one with no run to go on with."""
    from hyla.train.run_folder import RUN_FILE

    if out is None:
        raise ConfigError("--out is missing: the folder that the run is kept in")
    if resume and not (out / RUN_FILE).is_file():
        raise ConfigError(f"--resume: {out} holds no run; leave the flag out to begin one")
    return out
