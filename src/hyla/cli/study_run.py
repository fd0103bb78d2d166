"""Runs of a study, and what they cost, on a terminal."""

from __future__ import annotations

import time
from math import floor, log10
from pathlib import Path

from hyla.cli.console import console
from hyla.cli.study_table import execute_shown
from hyla.ops.host_memory import keep_freed_memory
from hyla.study.course import Course
from hyla.study.price import Price, price


def carry_on(
    course: Course, *, folder: Path, workers: int, threads: int, address: str | None, deadline: float | None
) -> int:
    """Do what is missing, stage by stage: rates first. Returns the exit status."""
    keep_freed_memory()
    strangers = course.strangers()
    if strangers:
        some = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        console.print(
            f"{len(strangers)} files of {course.ledger.folder} belong to no run of this study as it is now (other "
            f"rates, text or version), and are left out: {some}",
            soft_wrap=True,
        )
    while jobs := course.missing():
        left = None if deadline is None else (deadline - time.monotonic()) / 60
        if left is not None and left <= 0:
            return 0
        outcome = execute_shown(
            jobs,
            folder=folder,
            execute=course.execute,
            workers=workers,
            threads=threads,
            address=address,
            minutes=left,
            flops={job.name: job.flops for job in jobs},
        )
        if outcome.status or outcome.waiting:
            return outcome.status
    course.measure()
    return 0


def show(course: Course) -> None:
    """What there is to run, and what it costs."""
    for line in lines(price(course)):
        console.print(line, soft_wrap=True)


def lines(found: Price) -> list[str]:
    """A price in words."""
    here = (
        "" if found.hours_here is None else f", about {_few(found.hours_here)} hours of one core here ({found.basis})"
    )
    return [
        f"{found.runs} runs, {found.finished} finished, {found.unknown} of them with rates that are not chosen yet",
        f"{found.flops:.3g} FLOPs and {found.tokens:.3g} training tokens in all; to do: "
        f"{found.flops_to_do:.3g} FLOPs{here}",
        f"the longest run: {found.longest_flops:.3g} FLOPs"
        + ("" if found.longest_minutes is None else f", about {_few(found.longest_minutes)} minutes here"),
        f"on one {found.device} at its roofline: {_few(found.hours_device)} hours in all",
    ]


def _few(number: float) -> str:
    """Two digits and no exponent: 0.042, 4.7, 50, 11,000,000."""
    if number <= 0:
        return "0"
    number = float(f"{number:.2g}")
    return f"{number:,.{max(0, 1 - floor(log10(number)))}f}"
