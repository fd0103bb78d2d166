"""Reading from the terminal: line editing with a kept history, and messages of several lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FENCE = '"""'
"""A line of its own, or the start of one: what follows is one message up to the next one."""

MOST_LINES = 2000
"""Kept in the history."""


def history_path() -> Path:
    """Where the history is kept, by the XDG rules."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hyla" / "chat_history"


@contextmanager
def line_history(is_kept: bool) -> Iterator[None]:
    """Arrow keys and a history, on a terminal; elsewhere nothing changes. The file is only readable by its owner."""
    import sys

    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:  # some builds of Python have none
        yield
        return
    path = history_path()
    readline.set_history_length(MOST_LINES)
    if is_kept:
        with suppress(OSError):
            readline.read_history_file(path)
    try:
        yield
    finally:
        if is_kept:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
                readline.write_history_file(path)


def read_message(prompt: str = "> ", more: str = ". ") -> str | None:
    r"""One message, or None at the end of input.

    A line that ends with a backslash goes on in the next one; a message between two \"\"\" may hold anything.
    """
    try:
        line = input(prompt)
        if line.lstrip().startswith(FENCE):
            return _read_fenced(line.lstrip().removeprefix(FENCE), more)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(input(more))
        return "\n".join(lines)
    except EOFError:
        return None


def _read_fenced(line: str, more: str) -> str:
    lines = []
    while FENCE not in line:
        lines.append(line)
        line = input(more)
    lines.append(line.partition(FENCE)[0])
    return "\n".join(lines).strip("\n")
