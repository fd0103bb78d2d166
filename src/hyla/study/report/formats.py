"""Numbers of a study as texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import isfinite

from hyla.study.statistics import Interval

NOTHING = "-"
SUFFIXES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def flops(value: float) -> str:
    """Floating-point operations.

    >>> flops(2e12), flops(316227766016.8)
    ('2.00e12', '3.16e11')
    """
    return f"{value:.2e}".replace("e+", "e")


def bytes_of(value: float) -> str:
    """Bytes in the largest unit that leaves at least one.

    >>> bytes_of(1536), bytes_of(20)
    ('1.5 KiB', '20 B')
    """
    for size, name in SUFFIXES:
        if value >= size:
            return f"{value / size:.1f} {name}"
    return f"{value:.0f} B"


def interval(found: Interval | None, spec: str = ".4f") -> str:
    """An estimate and its interval; an end that is not known (of one seed: neither) is open.

    >>> interval(Interval(1.0, 0.5, float("inf")), ".1f"), interval(Interval(1.0, float("-inf"), float("inf")), ".1f")
    ('1.0 [0.5, open]', '1.0 [open]')
    """
    if found is None:
        return NOTHING
    if not isfinite(found.low) and not isfinite(found.high):
        return f"{found.estimate:{spec}} [open]"
    low, high = (format(end, spec) if isfinite(end) else "open" for end in (found.low, found.high))
    return f"{found.estimate:{spec}} [{low}, {high}]"


def layers(names: Sequence[str]) -> str:
    """A stack in short: its smallest group, and how often it comes; equal neighbours are counted.

    >>> layers(["kda", "kda", "softmax"] * 2), layers(["kda"] * 4), layers(["softmax", "kda"])
    ('(2 kda, softmax) x 2', '4 kda', 'softmax, kda')
    """
    length = next(n for n in range(1, len(names) + 1) if len(names) % n == 0 and _repeats(names, n))
    times = len(names) // length
    if length == 1:
        return f"{times} {names[0]}"
    counted = ((name, len(list(group))) for name, group in groupby(names[:length]))
    text = ", ".join(f"{count} {name}" if count > 1 else name for name, count in counted)
    return f"({text}) x {times}" if times > 1 else text


def _repeats(names: Sequence[str], length: int) -> bool:
    return all(names[place] == names[place % length] for place in range(len(names)))


def changes(fields: dict) -> str:
    """Single fields that differ."""
    return ", ".join(f"{name} = {value}" for name, value in sorted(fields.items())) or NOTHING


def named(values: Iterable[object]) -> str:
    """A list in a sentence.

    >>> named([1, 2, 3]), named(["a"]), named([])
    ('1, 2 and 3', 'a', 'none')
    """
    *first, last = [str(value) for value in values] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
