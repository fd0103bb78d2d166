"""A stack written for people: kinds of sublayers by name, repetitions shortened."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.models.kinds import KINDS


def label(kind: str) -> str:
    """A kind of sublayer, or another part of a model, for people."""
    return KINDS[kind].label if kind in KINDS else kind


def compress(labels: Sequence[str]) -> str:
    """A list with its repetitions written shorter.

    >>> compress(["KDA", "KDA", "KDA", "MLA"] * 6 + ["KDA", "KDA", "MLA"])
    '6x (3x KDA, MLA), 2x KDA, MLA'
    """
    labels = list(labels)
    for period in range(1, len(labels) // 2 + 1):
        repeats = 1
        while labels[repeats * period : (repeats + 1) * period] == labels[:period]:
            repeats += 1
        rest = labels[repeats * period :]
        if repeats > 1 and len(rest) < period:
            once = _runs(labels[:period])
            whole = f"{repeats}x ({once})" if period > 1 else f"{repeats}x {once}"
            return ", ".join([whole, *([_runs(rest)] if rest else [])])
    return _runs(labels)


def _runs(labels: list[str]) -> str:
    parts, start = [], 0
    for end in range(1, len(labels) + 1):
        if end == len(labels) or labels[end] != labels[start]:
            parts.append(labels[start] if end - start == 1 else f"{end - start}x {labels[start]}")
            start = end
    return ", ".join(parts)
