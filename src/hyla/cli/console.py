"""What several verbs print with: the console, bars while files are read, numbers for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from hyla.terminal_text import escaped


class PlainConsole(Console):
    """Prints texts as they are: no markup, and characters that command a terminal are written out (`escaped`)."""

    def __init__(self, *, stderr: bool = False):
        super().__init__(highlight=False, markup=False, emoji=False, stderr=stderr)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)


console = PlainConsole()


@contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress callback for loading: a bar on standard error when that is a terminal, else nothing."""
    errors = PlainConsole(stderr=True)
    columns = (TextColumn("[bold]loading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task("loading", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def scoring_bar(total: int) -> Iterator[Callable[[float], None]]:
    """A callback that takes bytes as they are scored: a bar on standard error when that is a terminal, else nothing."""
    errors = PlainConsole(stderr=True)
    columns = (TextColumn("[bold]scoring"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        yield lambda count: progress.advance(task, count)


class ItemsBar:
    """Items that are done, and the tokens of those that are on their way."""

    def __init__(self, progress: Progress, tokens: Callable[[], int]):
        self._progress, self._tokens = progress, tokens
        self._begun, self._first = time.monotonic(), tokens()
        self._task = progress.add_task("items", total=None, facts="")

    def begin(self, total: int, done: int) -> None:
        """So many are wanted; so many of them are done."""
        self._progress.update(self._task, total=total, completed=done)

    def item(self, text: str | None = None) -> None:
        """One is done; text: what is printed of it."""
        self._progress.advance(self._task)
        if text is not None:
            console.print(text, soft_wrap=True)

    def step(self) -> None:
        """The engine goes on."""
        computed = self._tokens() - self._first
        rate = computed / max(time.monotonic() - self._begun, 1e-9)
        self._progress.update(self._task, facts=f"{computed:,} tokens, {rate:,.0f} a second")


@contextmanager
def items_bar(tokens: Callable[[], int]) -> Iterator[ItemsBar]:
    """Progress of an eval, on a terminal; elsewhere only the lines of items. tokens: computed so far."""
    columns = (TextColumn("[bold]items"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield ItemsBar(progress, tokens)


def show(*tables: Sequence[Sequence[str]]) -> None:
    """Tables, each with its titles in its first row."""
    for titles, *rows in tables:
        shown = Table(*titles)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)


def describe_seconds(seconds: float) -> str:
    """A duration for people, not more exact than they need it.

    >>> describe_seconds(7.4), describe_seconds(95), describe_seconds(4000)
    ('7 s', '1 min 35 s', '67 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def describe_bytes(count: float) -> str:
    """A byte count for people.

    >>> describe_bytes(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
