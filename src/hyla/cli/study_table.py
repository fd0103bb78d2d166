"""The runs of a study while they are carried out: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hyla.cli.console import console, describe_seconds
from hyla.cli.interrupts import stopped_by_ctrl_c
from hyla.study.execution import Begun, Event, Failed, Finished, Job, Outcome, Paused, Retried, execute_all
from hyla.study.execution.standing import Running, Standing

MOST_FAILED = 5
"""That the table shows."""


class StudyTable:
    """Events in, a picture or lines out. Called from several threads."""

    def __init__(self, standing: Standing):
        self.standing, self._lock = standing, threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.standing(event)
            line = self._line(event)
        # On a terminal the table has what goes on; lines are for what must not be missed.
        if line and (not console.is_terminal or isinstance(event, Retried | Failed)):
            console.print(line, soft_wrap=True)

    def _line(self, event: Event) -> str | None:
        told = self.standing.told[event.name]
        match event:
            case Begun(number=number):
                return f"begins{f' (try {number})' if number > 1 else ''}: {told}"
            case Finished(is_old=False, seconds=seconds):
                return f"finished in {describe_seconds(seconds)}: {told}; {self.summary()}"
            case Retried(number=number, error=error):
                return f"try {number} failed, there will be another: {told}: {error}"
            case Failed(number=number, error=error):
                return f"failed after {number} tries: {told}: {error}"
            case Paused():
                return f"stopped, and can go on: {told}"
        return None

    def summary(self) -> str:
        """Counts and the time left, in a line."""
        seconds = self.standing.seconds_left()
        left = "" if not seconds else f", about {describe_seconds(seconds)} left"
        return self.standing.counts() + left

    def picture(self) -> Group:
        """What a terminal shows."""
        with self._lock:
            table = Table("running", "step", "tokens/s", box=None, header_style="dim", padding=(0, 2, 0, 0))
            for one in self.standing.running.values():
                table.add_row(*_cells(one))
            failed = [
                Text(f"failed: {self.standing.told[name]}: {error}", no_wrap=True, overflow="ellipsis")
                for name, error in list(self.standing.failed.items())[-MOST_FAILED:]
            ]
            return Group(Text(self.summary(), style="bold"), table, *failed)


def _cells(one: Running) -> tuple[str, str, str]:
    told = one.told if one.number == 1 else f"{one.told} (try {one.number})"
    if one.step is None:
        return told, "begins", ""
    speed = one.step.tokens_per_second
    return told, f"{one.step.step:,} of {one.step.steps:,}", "" if speed is None else f"{speed:,.0f}"


@contextmanager
def study_table(standing: Standing) -> Iterator[StudyTable]:
    """Shown inside; takes the events of `execute_all`."""
    table = StudyTable(standing)
    if not console.is_terminal:
        yield table
        return
    with Live(get_renderable=table.picture, console=console, refresh_per_second=2):
        yield table


def execute_shown(
    jobs: Sequence[Job],
    *,
    folder: Path,
    execute: str,
    workers: int = 1,
    threads: int = 1,
    address: str | None = None,
    retries: int = 2,
    minutes: float | None = None,
    flops: Mapping[str, float] | None = None,
    earlier: Iterable[tuple[float, float]] = (),
) -> Outcome:
    """`execute_all` with a table; Ctrl-C stops all runs after their step. What is left is said at the end.

    flops, earlier: as `Standing` takes them.
    """
    standing = Standing(jobs, workers, flops, earlier)
    with (
        stopped_by_ctrl_c(lambda line: console.print(line, soft_wrap=True)) as is_stopped,
        study_table(standing) as table,
    ):
        outcome = execute_all(
            jobs,
            folder=folder,
            execute=execute,
            workers=workers,
            threads=threads,
            address=address,
            retries=retries,
            minutes=minutes,
            on_event=table,
            is_stopped=is_stopped,
        )
    for line in closing_lines(outcome, standing.told, folder):
        console.print(line, soft_wrap=True)
    return outcome


def closing_lines(outcome: Outcome, told: Mapping[str, str], folder: Path) -> Iterator[str]:
    """What is finished, what is not and why, and how to go on."""
    total = len(outcome.finished) + len(outcome.failed) + len(outcome.waiting)
    yield f"{len(outcome.finished)} of {total} runs are finished"
    for name, error in outcome.failed.items():
        yield f"failed: {told[name]}: {error}"
    if outcome.failed:
        yield f"{folder / 'failed.json'} has where each failed; given again, the same command tries them again"
    if outcome.waiting:
        why = "stopped" if outcome.was_stopped else "the time is over"
        yield f"{why}; given again, the same command goes on with the other {len(outcome.waiting)}"
