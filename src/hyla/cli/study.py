"""`hyla study`: which mixer, which ratio, at which budget."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.run_flags import Settings
from hyla.errors import ConfigError


def study(
    plan: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Arms, budgets, seeds (docs/study-files.md).")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: beside the file, by its name.")
    ] = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to run and what it costs.")] = False,
    report_only: Annotated[bool, typer.Option("--report", help="Write the report of what there is.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop then; the same command goes on.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at once; more than 1 through Ray (hyla[study]).")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="That compute for a run.")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of a Ray cluster.")] = None,
) -> None:
    """Train every arm with equal budgets, and say what that shows. A run whose file is there is never repeated."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.cli.study_run import carry_on, show
    from hyla.study.course import course_of
    from hyla.study.files import read_study

    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g}; more than 0")
    request = read_study(plan, settings or ())
    course = course_of(request, out or plan.with_suffix(""), plan.stem)
    if dry_run:
        show(course)
        return
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    status = 0
    if not report_only:
        status = carry_on(
            course, folder=out or plan.with_suffix(""), workers=workers, threads=threads, address=ray, deadline=deadline
        )
    if course.other_text:
        typer.echo(f"the results are of another text ({course.other_text}) than the one here; this is their report")
    typer.echo(f"wrote {course.report()}")
    raise typer.Exit(status)
