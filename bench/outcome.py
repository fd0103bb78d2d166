"""What a benchmark returns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """Numbers for the last line, and what two revisions are compared by."""

    results: dict | list
    passed: bool | None = None
    """Whether what it checks and its targets hold; None where it has none. False makes the exit status 1."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By figure, every time that was taken: `--base` compares these."""
    digest: str | None = None
    """Of the bits that were computed: equal ones mean that both revisions compute the same."""
