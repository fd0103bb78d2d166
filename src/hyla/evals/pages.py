"""How numbers stand in the pages of reports."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from hyla.train.intervals import mean_interval


def share(values: Sequence[float]) -> str:
    """Mean of shares over seeds, and its 95% interval, cut off at 0 and 100%."""
    text = f"{mean(values):.1%}"
    if (found := mean_interval(values)) is not None:
        text += f" [{max(0.0, found[0]):.1%}, {min(1.0, found[1]):.1%}]"
    return text


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown of a table; the first line has its titles."""
    shown = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)
