"""`hyla eval synthetic`: tasks that are learnt from scratch, to tell mixers apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.run_flags import Settings

evals = typer.Typer(name="eval", help="What mixers and models can do.", no_args_is_help=True)


@evals.callback()
def describe() -> None:
    """What mixers and models can do."""


@evals.command()
def synthetic(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Tasks, arms, rates and seeds (docs/evals.md).")],
    out: Annotated[Path, typer.Option(help="Folder of the results: a file for each run, report.md.")],
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs there are and which are done.")] = False,
) -> None:
    """Learn tasks from scratch. A run whose file is there is not repeated; a killed one goes on."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.synthetic_lines import learn_all, show
    from hyla.evals.synthetic.plan import Plan
    from hyla.train.recipe_file import read_recipe

    request = read_recipe(plan, settings or (), Plan)
    if dry_run:
        show(request, out)
        return
    learn_all(request, out)
